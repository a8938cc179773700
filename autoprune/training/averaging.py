"""Exponential moving average of weights (Polyak & Juditsky, 1992, with forgetting)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoprune.candidate import most_decay
from autoprune.graph.replica import replica


class MovingAverage:
    """The average of a model's weights and statistics over its training steps.

    After n updates the last one counts 1 - min(decay, (1 + n) / (10 + n)), so that the first
    weights are forgotten early. Integers (such as numbers of batches) are copied.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> average = MovingAverage(net, 0.5)
    >>> start = net.weight.item()
    >>> with torch.no_grad():
    ...     _ = net.weight.add_(1.0)
    >>> average.update(net)
    >>> round(average.model.weight.item() - start, 4)  # 1 - 2 / 11
    0.8182
    """

    def __init__(self, model: nn.Module, decay: float, updates: int = 0) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must lie in (0, 1), got {decay}")
        self.model = replica(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, updates

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take up the weights of `model`, which has the shapes of the average."""
        self.updates += 1
        share = 1.0 - min(self.decay, most_decay(self.updates))
        for held, now in zip(_tensors(self.model), _tensors(model), strict=True):
            if held.is_floating_point():
                held.lerp_(now.to(held.dtype), share)
            else:
                held.copy_(now)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
