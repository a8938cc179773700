"""The default recipe for a dense model that has no checkpoint."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoprune.errors import TaskError, TrainingError
from autoprune.tasks.moving import device_of, to_device

if TYPE_CHECKING:
    from autoprune.tasks.base import Task

_WARM_UP = 0.1  # share of the steps in which the learning rate rises
_WEIGHT_DECAY = 0.01
_LARGEST_GRADIENT = 5.0

log = logging.getLogger(__name__)


def train_from_scratch(task: Task, model: nn.Module, *, epochs: int, lr: float, seed: int) -> None:
    """AdamW on the task's loss: linear warm-up, then a cosine to 0. Leaves the model in eval mode.

    Epoch e reads `task.train_loader(seed * 1000 + e)`. Raises TrainingError at the first loss that
    is not finite, TaskError when the loader is empty.
    """
    device = device_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=_WEIGHT_DECAY)
    model.train()
    for epoch in range(epochs):
        loader = task.train_loader(seed * 1000 + epoch)
        batches = len(loader)  # type: ignore[arg-type]  # the Task contract promises it
        if batches == 0:
            raise TaskError(f"{type(task).__name__}: train_loader must hold at least one batch")
        total = 0.0
        for step, batch in enumerate(loader):
            rate = lr * _share((epoch + step / batches) / epochs)
            total += _step(task, model, optimizer, rate, to_device(batch, device))
        log.info("dense model, epoch %d of %d: loss %.4f", epoch + 1, epochs, total / batches)
    model.eval()


def _share(progress: float) -> float:
    """The share of the peak learning rate at a training progress in [0, 1)."""
    if progress < _WARM_UP:
        return 0.05 + 0.95 * progress / _WARM_UP
    return 0.5 * (1.0 + math.cos(math.pi * (progress - _WARM_UP) / (1.0 - _WARM_UP)))


def _step(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, batch: object
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(model, batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"{type(task).__name__}: the dense model's training loss must be finite, got {value} · "
            "lower dense_lr or override train_dense"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
    optimizer.step()
    return value
