"""The scalar in what a function or a method gives as a training loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import TaskError

LOSS = "loss"


def loss_in(what: str, answer: Any) -> Tensor:
    """The scalar of a tensor with one value, or of a mapping: its `loss`, else the sum of all.

    Raises TaskError, which begins with `what`, for anything else.

    >>> loss_in("step", {"boxes": torch.tensor(2.0), "classes": torch.tensor([1.0])})
    tensor(3.)
    """
    if not isinstance(answer, Mapping):
        return _scalar(what, answer)
    if LOSS in answer:
        return _scalar(f"{what}[{LOSS!r}]", answer[LOSS])
    if not answer:
        raise TaskError(f"{what} must give a loss, got an empty mapping")
    losses = [_scalar(f"{what}[{name!r}]", value) for name, value in answer.items()]
    return torch.stack(losses).sum()


def _scalar(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise TaskError(f"{what} must give a scalar tensor or a mapping of them, got {kind}")
