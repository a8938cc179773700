"""The toy task of `stripes` with a network of any width, which is trained already."""

from __future__ import annotations

import torch
from stripes import Stripes
from torch import nn


class WideStripes(Stripes):
    dense_epochs = 0

    def __init__(self, width: int = 16) -> None:
        self.width = width

    def build_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(1, self.width, 3, bias=False),
                nn.BatchNorm2d(self.width),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(self.width, 3),
            )
