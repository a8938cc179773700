"""A toy task that trains in a blink: which way do the stripes of a noisy 8 x 8 image run?"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.graph import PruningGraph, trace
from autoprune.tasks import Task


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    wave = torch.tensor([1.0, -1.0]).repeat(4)
    kinds = torch.stack([wave[:, None].expand(8, 8), wave.expand(8, 8), torch.outer(wave, wave)])
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    return kinds[labels][:, None] + 1.5 * noise, labels


class Stripes(Task):
    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(16, 3),
        )

    def example_input(self) -> Tensor:
        return torch.zeros(1, 1, 8, 8)

    def train_loader(self, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Shuffled by the global generator, as a user's DataLoader often is."""
        return DataLoader(TensorDataset(*images(96, 0)), batch_size=16, shuffle=True)

    def val_loader(self) -> Iterable[tuple[Tensor, Tensor]]:
        return [images(60, 1)]

    def test_loader(self) -> Iterable[tuple[Tensor, Tensor]]:
        return [images(60, 2)]


@cache
def _trained() -> dict[str, Tensor]:
    """Weights after a few epochs, so that importance and distillation mean something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = Stripes()
        model = task.build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(6):
            for batch in task.train_loader(epoch):
                optimizer.zero_grad()
                task.loss(model, batch).backward()
                optimizer.step()
    return model.state_dict()


def dense() -> tuple[nn.Module, PruningGraph]:
    """A freshly copied dense model and its graph; groups "0" and "3" have 16 units each."""
    model = Stripes().build_model()
    model.load_state_dict(_trained())
    model.eval()
    return model, trace(model, Stripes().example_input())
