"""The two reference networks of MLPerf Tiny with public weights: ResNet-8 and the keyword DS-CNN.

`AUTOPRUNE_DATA` holds `cifar10/`, `speech_commands_test/logmel_49x40.npz` and the weights in
`checkpoints/`. Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.tasks import InMemoryTask, Normalize, data_folders, find_file
from examples.cifar10 import Cifar10ResNet20

_EPS = 1e-3  # of the batch normalizations of Keras
_MFCC, _MELS = 10, 40


class Resnet8(Cifar10ResNet20):
    """CIFAR-10, train 45,000, validation 5,000, test 10,000; the weights have seen two."""

    prepare = Normalize(mean=(0.0,) * 3, std=(1 / 255,) * 3)  # 0 to 255, as in its training

    def __init__(self, data: str | Path | None = None) -> None:
        self.data, self.dense_epochs = data, None
        name = "resnet8_mlperf_tiny_cifar10.safetensors"
        self.checkpoint = find_file(data, "checkpoints", [name])

    def build_model(self) -> nn.Module:
        """Three stages of one residual block, 16, 32 and 64 channels."""
        return ResNet8()


class Keywords(InMemoryTask):
    """Twelve keywords; fit 2,932, validation 720, test 1,238 clips, no speaker in two of them.

    All are from the official test set, of which the weights have seen none.
    """

    batch_size = 64
    evaluation_batch_size = 400

    def __init__(self, data: str | Path | None = None) -> None:
        self.data = data
        self.checkpoint = find_file(data, "checkpoints", ["dscnn_mlperf_tiny_kws.safetensors"])

    def build_model(self) -> nn.Module:
        """Four depthwise-separable blocks of 64 channels."""
        return KeywordNet()

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """MFCCs (N, 1, 49, 10), labels, rows."""
        return _keywords(self.data)


class ResNet8(nn.Module):
    """A convolution, three residual blocks, global average, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, _EPS)
        self.layer1 = _Residual(16, 16, 1)
        self.layer2 = _Residual(16, 32, 2)
        self.layer3 = _Residual(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 10)` of images `(B, 3, 32, 32)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pad = (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)  # TensorFlow's "same"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs, _EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs, _EPS)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(F.pad(x, self.pad))))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class KeywordNet(nn.Module):
    """A convolution, four depthwise-separable blocks, mean over the map, linear."""

    def __init__(self, width: int = 64, classes: int = 12) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, (10, 4), stride=2)
        self.bn1 = nn.BatchNorm2d(width, _EPS)
        self.block1 = _Separable(width)
        self.block2 = _Separable(width)
        self.block3 = _Separable(width)
        self.block4 = _Separable(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 12)` of MFCCs `(B, 1, 49, 10)`."""
        x = F.relu(self.bn1(self.conv1(F.pad(x, (1, 1, 4, 5)))))
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.linear(x[:, :, :24].mean((2, 3)))


class _Separable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn1 = nn.BatchNorm2d(width, _EPS)
        self.pw = nn.Conv2d(width, width, 1)
        self.bn2 = nn.BatchNorm2d(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.pw(F.relu(self.bn1(self.dw(x))))))


@cache
def _keywords(data: str | Path | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    folders = data_folders(data, "speech_commands_test")
    file = next(f for folder in folders if (f := folder / "logmel_49x40.npz").is_file())
    with np.load(file, allow_pickle=False) as stored:
        logmel = stored["logmel_q"] * np.float32(0.08) - np.float32(14.0)
        labels, split = stored["labels"].astype(np.int64), stored["suggested_split"]
    k, n = np.arange(_MFCC), np.arange(_MELS)[:, None]
    cosines = 2.0 * np.cos(math.pi * k * (2 * n + 1) / (2 * _MELS)) / math.sqrt(2 * _MELS)
    features = torch.from_numpy((logmel @ cosines.astype(np.float32))[:, None])
    rows = {name: torch.from_numpy(np.flatnonzero(split == part)) for part, name in _PARTS}
    return {name: (features, torch.from_numpy(labels), rows[name]) for name in rows}


_PARTS = ((0, "train"), (1, "val"), (2, "test"))
