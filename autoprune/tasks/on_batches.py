"""A task's loss and outputs for a batch of `train_loader`; what they raise is named."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from autoprune.tasks.base import Batch, Task
from autoprune.tasks.failures import name_of, named
from autoprune.tasks.nested import mapped

_TENSORS = 4  # of a batch that are described


def loss_of(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """`task.loss` for a batch of `train_loader`. Raises TaskError where it fails."""
    with named(f"{name_of(task)}.loss", partial(_on, batch)):
        return task.loss(model, batch)


def outputs_of(task: Task, model: nn.Module, batch: Batch) -> Any:
    """`task.outputs` for a batch of `train_loader`. Raises TaskError where it fails."""
    with named(f"{name_of(task)}.outputs", partial(_on, batch)):
        return task.outputs(model, batch)


def _on(batch: Any) -> str:
    found: list[str] = []

    def note(tensor: Tensor) -> Tensor:
        sizes = "x".join(map(str, tensor.shape)) or "scalar"
        found.append(f"{sizes} {str(tensor.dtype).removeprefix('torch.')}")
        return tensor

    mapped(note, batch)
    shown = ", ".join(found[:_TENSORS]) + (", …" if len(found) > _TENSORS else "")
    return "on a batch of train_loader" + (f" ({shown})" if shown else "")
