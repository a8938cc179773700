"""scikit-learn's digits with a small residual CNN: needs neither data nor checkpoint."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.tasks.in_memory import InMemoryTask, Splits
from autoprune.tasks.loaders import Normalize, PadCropFlip, stratified

WIDTHS = (48, 96, 192)
_SPLIT_SEED = 0
_PREPARE = Normalize(mean=(0.305,), std=(0.33,))  # of the enlarged training images


class Digits(InMemoryTask):
    """1,797 handwritten digits, 10 classes: train 1,079, validation 359, test 359 (stratified).

    The 8 x 8 images are enlarged to 16 x 16, so that the network (27 M multiply-accumulates) is
    slow enough for its latency to be measured well. The dense model is trained in seconds at the
    first use and reaches about 99 % on validation.
    """

    dense_epochs = 5
    augment = PadCropFlip(pad=1, flip=False)
    prepare = _PREPARE
    evaluation_batch_size = 256

    def __init__(self, batch_size: int = 64) -> None:
        self.batch_size = batch_size

    def build_model(self) -> nn.Module:
        """Three residual stages of widths 48, 96, 192."""
        return DigitsNet()

    def example_input(self) -> Tensor:
        """One image, `(1, 1, 16, 16)`."""
        return torch.zeros(1, 1, 16, 16)

    def splits(self) -> Splits:
        """uint8 images (1797, 1, 16, 16), labels, rows; shifted by up to one of sixteen pixels."""
        return _splits()


class DigitsNet(nn.Module):
    """Convolution, one residual block per stage (stride 2 from the second on), mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        self.stage1 = _Block(WIDTHS[0], WIDTHS[0], stride=1)
        self.stage2 = _Block(WIDTHS[0], WIDTHS[1], stride=2)
        self.stage3 = _Block(WIDTHS[1], WIDTHS[2], stride=2)
        self.linear = nn.Linear(WIDTHS[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 10)` of images `(B, 1, 16, 16)`."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@cache
def _splits() -> Splits:
    """Split -> (uint8 images (1797, 1, 16, 16), labels, rows)."""
    from sklearn.datasets import load_digits  # heavy, and needed for this task only

    raw = load_digits()
    small = torch.from_numpy(raw.images.astype(np.float32)).unsqueeze(1) / 16.0
    large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    images, labels = (large * 255).round().to(torch.uint8), torch.from_numpy(raw.target).long()
    rest, test = stratified(raw.target, 0.2, _SPLIT_SEED)
    train, val = stratified(raw.target[rest.numpy()], 0.25, _SPLIT_SEED)
    rows = {"train": rest[train], "val": rest[val], "test": test}
    return {split: (images, labels, index) for split, index in rows.items()}
