"""Training batches in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from autoprune.errors import TrainingError
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.dense import length_of
from autoprune.tasks.failures import name_of, named
from autoprune.training.rng import RandomState, derive, preserved, seed_all


class BatchStream:
    """An endless stream of training batches, epoch after epoch, that can start at any step.

    Epoch e reads `task.train_loader(derive(seed, "epoch", e))`, with the global generators seeded
    likewise, and keeps their state apart from the caller's, so that neither the model's
    randomness nor an interruption changes which batch comes next. A plain list of batches is read
    in an order drawn from that seed.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._seed = task, seed
        self._epoch, self._position = 0, 0
        self._batches: Iterator[Batch] | None = None
        self._state: RandomState | None = None
        self.length = _length(task, seed)

    def seek(self, step: int) -> None:
        """Go to the batch of optimization step `step`, drawing the epoch's batches before it."""
        self._epoch, target = divmod(step, self.length)
        self._batches, self._position = None, 0
        while self._position < target:
            next(self)

    def __next__(self) -> Batch:
        """The next batch as the loader gives it; starts a new epoch when one is through.

        Raises TrainingError when the loader gives fewer batches than its length.
        """
        if self._position == self.length:
            self._epoch, self._position, self._batches = self._epoch + 1, 0, None
        with preserved(), named(f"{type(self._task).__name__}.train_loader"):
            if self._batches is None:
                seed = derive(self._seed, "epoch", self._epoch)
                seed_all(seed)
                self._batches = iter(_shuffled(self._task.train_loader(seed), seed))
            elif self._state is not None:
                self._state.put_back()
            batch = next(self._batches, None)
            self._state = RandomState.now()
        if batch is None:
            raise TrainingError(
                f"train_loader must give len() = {self.length} batches, "
                f"ended after {self._position} in epoch {self._epoch}"
            )
        self._position += 1
        return batch


def total_steps(epochs: float, batches: int) -> int:
    """The optimization steps of so many epochs of `batches`: one at least, if there are any.

    >>> total_steps(1.5, 7), total_steps(0.1, 3), total_steps(0.0, 3)
    (10, 1, 0)
    """
    return round(epochs * batches) or (1 if epochs else 0)


def steps_of(task: Task, epochs: float, seed: int) -> int:
    """`total_steps` of a training of the task; TrainingError where its loader has no length."""
    return total_steps(epochs, _length(task, seed))


def sample(task: Task, seed: int, *, samples: int, least: int = 2) -> list[Batch]:
    """The first batches of `train_loader(seed)`: at least `least`, and at least `samples` items."""
    with preserved(), named(f"{name_of(task)}.train_loader"):
        seed_all(seed)
        batches: list[Batch] = []
        found = 0
        for batch in islice(task.train_loader(seed), max(samples, least)):
            batches.append(batch)
            found += _items(batch)
            if found >= samples and len(batches) >= least:
                break
    return batches


def _shuffled(loader: Iterable[Batch], seed: int) -> Iterable[Batch]:
    """A list in another order; other loaders shuffle themselves."""
    if type(loader) in (list, tuple):
        batches: list[Batch] = list(loader)
        return random.Random(seed).sample(batches, len(batches))
    return loader


def _length(task: Task, seed: int) -> int:
    with preserved(), named(f"{name_of(task)}.train_loader"):
        loader = task.train_loader(derive(seed, "epoch", 0))
    return length_of(loader, name_of(task))


def _items(batch: Any) -> int:
    """The size of the first dimension of the first tensor in a nest; 1 when there is none."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(batch, Mapping | tuple | list):
        return max((_items(part) for part in parts), default=1)
    return 1
