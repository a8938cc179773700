"""Voice commands on a phone: twelve keywords with the DS-CNN of MLPerf Tiny, in int8.

    AUTOPRUNE_DATA=/data autoprune search examples/voice_commands.yaml

The data folder (the configuration's `data`, or AUTOPRUNE_DATA) or its subfolder
`speech_commands_test` holds the clips of Speech Commands v0.02 (Warden 2018, arXiv:1804.03209): the
unpacked archive speech_commands_test_set_v0.02.tar.gz, one folder of WAV files for each class, or
their log-mel features, `logmel_49x40.npz`. `dscnn_mlperf_tiny_kws.safetensors` lies there or in
`checkpoints`: the reference weights (Banbury et al., MLPerf Tiny Benchmark, NeurIPS 2021; in the
repository mlcommons/tiny as a SavedModel) under the names of `KeywordNet`, filters as PyTorch
orders them (`scripts/mlperf_tiny_weights.py`). Without it set `task_args: {dense_epochs: 60}`.
"""

from __future__ import annotations

import hashlib
import math
import re
import wave
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks import InMemoryTask, cached_arrays, data_folders, find_file, read_npz

CLASSES = (
    *("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"),
    *("_silence_", "_unknown_"),
)
RATE_HZ = 16_000
FRAMES, MELS, MFCC = 49, 40, 10
_WINDOW, _HOP, _FFT = 480, 320, 512  # 30 ms every 20 ms
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 4000.0
_EPS = 1e-3  # of the batch normalizations of Keras
_NPZ = "logmel_49x40.npz"
_STEP, _LEAST = np.float32(0.08), np.float32(-14.0)  # what one of its 8-bit steps is, and 0
_SPLITS = ("train", "val", "test")
_SHARES = (0.60, 0.75)  # where validation and test begin, as shares of all speakers
_SPEAKER = re.compile(r"([0-9a-f]{8})_nohash_[0-9]+\.wav$")


class VoiceCommands(InMemoryTask):
    """Train 2,932, validation 720, test 1,238 clips; no speaker is in two of them.

    All are from the official test set, of which the reference weights have seen none.
    """

    dense_lr = 4e-3
    batch_size = 64
    evaluation_batch_size = 400

    def __init__(self, data: str | Path | None = None, dense_epochs: int | None = None) -> None:
        self.data, self.dense_epochs = data, dense_epochs
        if dense_epochs is None:
            self.checkpoint = find_file(data, "checkpoints", ["dscnn_mlperf_tiny_kws.safetensors"])

    def build_model(self) -> nn.Module:
        """Four depthwise-separable blocks of 64 channels."""
        return KeywordNet()

    def splits(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """MFCCs (N, 1, 49, 10), labels, rows."""
        return _splits(self.data)


class KeywordNet(nn.Module):
    """A convolution, four depthwise-separable blocks, mean over the map, linear."""

    def __init__(self, width: int = 64, classes: int = len(CLASSES)) -> None:
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
        return self.linear(x[:, :, :24].mean((2, 3)))  # the reference leaves out the last row


class _Separable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn1 = nn.BatchNorm2d(width, _EPS)
        self.pw = nn.Conv2d(width, width, 1)
        self.bn2 = nn.BatchNorm2d(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.pw(F.relu(self.bn1(self.dw(x))))))


def log_mel(clip: Tensor) -> Tensor:
    """Log-mel features `(49, 40)` of one second at 16 kHz, scaled to a largest sample of 1.

    Magnitudes (not powers) of a Hann window, triangles on the mel scale of HTK. Shorter clips are
    padded, longer ones cut.
    """
    clip = F.pad(clip[:RATE_HZ], (0, max(0, RATE_HZ - len(clip))))
    clip = clip / clip.max().clamp(min=1e-9)
    frames = clip.unfold(0, _WINDOW, _HOP) * torch.hann_window(_WINDOW)
    return torch.log(torch.fft.rfft(frames, n=_FFT).abs() @ _mel_filters() + 1e-6)


def mfcc(features: Tensor) -> Tensor:
    """The first ten coefficients `(..., 10)` of a scaled cosine transform of `(..., 40)`."""
    k, n = torch.arange(MFCC), torch.arange(MELS)[:, None]
    cosines = torch.cos(math.pi * k * (2 * n + 1) / (2 * MELS))
    return features @ (2.0 / math.sqrt(2 * MELS) * cosines)


@cache
def _mel_filters() -> Tensor:
    """Triangles `(257, 40)` that are linear in mel, over the bins of the transform."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([_LOWEST_HZ, _HIGHEST_HZ])).tolist()
    corners = torch.linspace(low, high, MELS + 2)
    place = mel(torch.linspace(0.0, RATE_HZ / 2, _FFT // 2 + 1))[:, None]
    rising = (place - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - place) / (corners[2:] - corners[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    filters[0] = 0.0  # no constant
    return filters


@cache
def _splits(data: str | Path | None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    arrays = _arrays(data)
    inputs = mfcc(torch.from_numpy(arrays["features"]))[:, None]
    labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    rows = [torch.from_numpy(np.flatnonzero(arrays["split"] == part)) for part in range(3)]
    return {name: (inputs, labels, part) for name, part in zip(_SPLITS, rows, strict=True)}


def _arrays(data: str | Path | None) -> dict[str, np.ndarray]:
    """`features` (N, 49, 40), `labels` and `split` (0 train, 1 val, 2 test)."""
    folders = data_folders(data, "speech_commands_test")
    for folder in folders:
        if (folder / _NPZ).is_file():
            held = read_npz(folder / _NPZ, ("logmel_q", "labels", "suggested_split"))
            features = held["logmel_q"] * _STEP + _LEAST
            return {
                "features": features,
                "labels": held["labels"],
                "split": held["suggested_split"],
            }
        for place in (folder, folder / "speech_commands_test_set_v0.02"):
            if files := [path for name in CLASSES for path in sorted((place / name).glob("*.wav"))]:
                return cached_arrays("voice-commands", files, lambda found=files: _features(found))
    raise TaskError(
        f"speech_commands_test is not in {' or '.join(map(str, folders))}: looked for {_NPZ} and "
        f"for folders of WAV files named {', '.join(CLASSES)}"
    )


def _features(files: list[Path]) -> dict[str, np.ndarray]:
    return {
        "features": torch.stack([log_mel(_samples(path)) for path in files]).numpy(),
        "labels": np.array([CLASSES.index(path.parent.name) for path in files]),
        "split": np.array([_part(path.name) for path in files]),
    }


def _part(name: str) -> int:
    """The split of a clip, by its speaker; by its own name where it says none, as silence does."""
    said = _SPEAKER.search(name)
    digest = hashlib.sha256((said.group(1) if said else name).encode()).digest()
    return sum(int.from_bytes(digest[:4]) / 2**32 >= share for share in _SHARES)


def _samples(path: Path) -> Tensor:
    try:
        with wave.open(str(path)) as file:
            layout = file.getframerate(), file.getnchannels(), file.getsampwidth()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise TaskError(f"{path} cannot be read as WAV: {error}") from error
    if layout != (RATE_HZ, 1, 2):
        raise TaskError(
            f"{path} must be {RATE_HZ} Hz, 1 channel, 2 bytes a sample, got {layout[0]} Hz, "
            f"{layout[1]} channels, {layout[2]} bytes"
        )
    return torch.from_numpy(np.frombuffer(raw, "<i2").astype(np.float32) / 32768.0)
