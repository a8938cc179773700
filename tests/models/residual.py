"""A net of residual blocks whose calls can be counted by hand."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

BLOCKS = ("blocks.0", "blocks.1", "blocks.2")


class Residual(nn.Module):
    """Two convolutions with a norm each, and a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))


class Chain(nn.Module):
    """A convolution, three residual blocks, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList(Residual(8) for _ in BLOCKS)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))

    def without(self, dropped: Collection[str]) -> Chain:
        """The same net, made by hand without some blocks."""
        made = Chain()
        made.stem, made.head = self.stem, self.head
        left = [
            block for name, block in zip(BLOCKS, self.blocks, strict=True) if name not in dropped
        ]
        made.blocks = nn.ModuleList(left)
        return made.eval()
