"""The default recipe for a dense model that has no checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import TaskError, TrainingError
from autoprune.tasks.failures import named, read
from autoprune.tasks.nested import device_of, to_device

Batches = Callable[[int], Iterable[Any]]  # seed -> one epoch's batches
Loss = Callable[[nn.Module, Any], Tensor]
OnEpoch = Callable[[int, float], None]
"""Called after each epoch: its number from 1, and its mean loss."""

_WARM_UP = 0.1  # share of the steps in which the learning rate rises
_WEIGHT_DECAY = 0.01
_LARGEST_GRADIENT = 5.0

log = logging.getLogger(__name__)


def train_from_scratch(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
    *,
    epochs: int,
    lr: float,
    seed: int,
    name: str,
    on_epoch: OnEpoch | None = None,
) -> None:
    """AdamW: linear warm-up, then a cosine to 0. Leaves the model in eval mode.

    Epoch e reads `batches(seed * 1000 + e)`, which must have a length. `name` stands in errors:
    TrainingError at the first loss that is not finite, TaskError when there are no batches.
    """
    device = device_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=_WEIGHT_DECAY)
    model.train()
    for epoch in range(epochs):
        with named(f"{name}.train_loader"):
            loader = batches(seed * 1000 + epoch)
        count = length_of(loader, name)
        total = 0.0
        for step, batch in enumerate(read(loader, f"{name}.train_loader")):
            for group in optimizer.param_groups:
                group["lr"] = lr * _share((epoch + step / count) / epochs)
            with named(f"{name}: training the dense model", "on a batch of train_loader"):
                total += _step(model, loss(model, to_device(batch, device)), optimizer, name)
        log.info("dense model, epoch %d of %d: loss %.4f", epoch + 1, epochs, total / count)
        if on_epoch is not None:
            on_epoch(epoch + 1, total / count)
    model.eval()


def length_of(loader: Iterable[Any], name: str) -> int:
    """The number of batches of a `train_loader`, above 0; TaskError for a task of this `name`."""
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError as error:
        raise TaskError(
            f"{name}.train_loader(seed) must have a length, got {type(loader).__name__} "
            "· give it a __len__ (a DataLoader has that of its dataset)"
        ) from error
    if length < 1:
        raise TaskError(f"{name}: train_loader must hold at least one batch")
    return length


def _share(progress: float) -> float:
    """The share of the peak learning rate at a training progress in [0, 1)."""
    if progress < _WARM_UP:
        return 0.05 + 0.95 * progress / _WARM_UP
    return 0.5 * (1.0 + math.cos(math.pi * (progress - _WARM_UP) / (1.0 - _WARM_UP)))


def _step(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, name: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"{name}: the dense model's training loss must be finite, got {value} · lower dense_lr "
            "or override train_dense"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_GRADIENT)
    optimizer.step()
    return value
