"""Random streams that can be interrupted and resumed: the data's, each step's, the caller's."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.tasks.base import Task


def derive(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2³¹) for one purpose: equal arguments, equal seeds; else unrelated ones.

    >>> derive(0, "epoch", 1) == derive(0, "epoch", 1) != derive(1, "epoch", 1)
    True
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - augmentations of users draw from the global generator
    torch.manual_seed(seed)


@dataclass(frozen=True, slots=True)
class RandomState:
    """The global generators of Python, NumPy and torch at one moment."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: tuple[Tensor, ...]

    @staticmethod
    def now() -> RandomState:
        """What the global generators hold now."""
        cuda = torch.cuda.get_rng_state_all() if _cuda_is_used() else []
        state = np.random.get_state()  # noqa: NPY002 - the global generator is the one to keep
        return RandomState(random.getstate(), state, torch.get_rng_state(), tuple(cuda))

    def put_back(self) -> None:
        """Set the global generators to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 - see `now`
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


def _cuda_is_used() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the global generators on leaving, whatever is drawn or seeded inside."""
    before = RandomState.now()
    try:
        yield
    finally:
        before.put_back()


def untrained(task: Task, seed: int) -> nn.Module:
    """A task's model with random weights that depend on the seed alone, in eval mode.

    Layers draw theirs anew where they have `reset_parameters`, as torch's own have.
    """
    with preserved():
        seed_all(seed)
        model = task.build_model()
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return model.eval()
