"""The results of a task's `evaluate`, as plain numbers."""

from __future__ import annotations

from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.base import Split, Task
from autoprune.tasks.failures import name_of, named

_TAKEN = ("epoch", "params", "lr", "train_loss", "file_bytes")  # other keys of a training history


def evaluated(task: Task, model: nn.Module, split: Split) -> dict[str, float]:
    """`task.evaluate(model, split)`; tensors and NumPy's numbers become floats.

    Raises TaskError where it fails, a value is no number, or the task's metric has a name that is
    taken.
    """
    name = name_of(task)
    if task.metric in _TAKEN:
        raise TaskError(f"{name}.metric must not be called {task.metric!r} · choose another name")
    with named(f"{name}.evaluate", f"on {split}"):
        answer = dict(task.evaluate(model, split))
    found = {}
    for key, value in answer.items():
        try:
            found[key] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TaskError(
                f"{name}.evaluate must answer numbers, got {key!r}: "
                f"{' '.join(repr(value).split())[:80]} on {split}"
            ) from error
    return found
