"""A small loader for data that fit in memory: whole batches are gathered and augmented at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

Augment = Callable[[Tensor, torch.Generator], Tensor]
Prepare = Callable[[Tensor], Tensor]


class TensorLoader:
    """Batches `(prepare(augment(inputs)), targets)` of tensors in memory.

    Without a `seed` the rows come in order and the last batch may be short. With one they are
    reshuffled at each pass and a short last batch is dropped (it would disturb
    BatchNorm), unless it is the only one. Order and augmentation depend on `(seed, epoch)` alone:
    `epoch` counts the passes and may be set, so that an interrupted run can resume. Random
    numbers are drawn on the CPU, so they are the same on every device.

    Args:
        inputs: `(N, ...)`, usually uint8; may be memory-mapped.
        targets: `(N,)` class numbers, or anything with N rows.
        rows: the rows of this split (int64), all of them by default; nothing is copied.
        batch_size: at least 1.
        seed: None for a fixed order.
        augment: `(batch, generator) -> batch`, on the stored type.
        prepare: `batch -> batch`, for example `Normalize`.

    >>> loader = TensorLoader(torch.arange(10), torch.arange(10), batch_size=4, seed=0)
    >>> len(loader), [len(x) for x, _ in loader]
    (2, [4, 4])
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        rows: Tensor | None = None,
        batch_size: int = 128,
        seed: int | None = None,
        augment: Augment | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        if len(inputs) != len(targets):
            raise ValueError(
                f"inputs and targets must have as many rows, got {len(inputs)} and {len(targets)}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.inputs, self.targets = inputs, targets
        self.rows = torch.arange(len(inputs)) if rows is None else rows
        self.batch_size, self.seed = batch_size, seed
        self.augment, self.prepare = augment, prepare
        self.epoch = 0

    def __len__(self) -> int:
        """The number of batches in one pass."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (rest > 0 and (self.seed is None or whole == 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; the next one uses the next epoch's order."""
        generator = torch.Generator().manual_seed(_mix(self.seed or 0, self.epoch))
        order = self.rows
        if self.seed is not None:
            order = order[torch.randperm(len(order), generator=generator)]
        self.epoch += 1
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._batch(order[start : start + self.batch_size], generator)

    def to(self, device: torch.device | str) -> TensorLoader:
        """The same batches, stored and made on `device`."""
        moved = TensorLoader(
            self.inputs.to(device),
            self.targets.to(device),
            rows=self.rows,
            batch_size=self.batch_size,
            seed=self.seed,
            augment=self.augment,
            prepare=self.prepare,
        )
        moved.epoch = self.epoch
        return moved

    def _batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = rows.to(self.inputs.device)
        batch, targets = self.inputs[rows], self.targets[rows]
        if self.augment is not None:
            batch = self.augment(batch, generator)
        return (batch if self.prepare is None else self.prepare(batch)), targets


@dataclass(frozen=True)
class PadCropFlip:
    """Zero padding, a random crop back to the size, and (for half of them) a horizontal flip.

    Every image of the `(B, C, H, W)` batch has its own crop and flip (He et al. 2016).
    """

    pad: int = 4
    flip: bool = True

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """The augmented batch, of the same shape and type."""
        count, device = len(batch), batch.device
        place = torch.randint(2 * self.pad + 1, (2, count), generator=generator).to(device)
        windows = F.pad(batch, (self.pad,) * 4).unfold(2, batch.shape[2], 1)
        windows = windows.unfold(3, batch.shape[3], 1)  # a view: B C rows columns H W
        crops = windows[torch.arange(count, device=device), :, place[0], place[1]]
        if not self.flip:
            return crops
        mirrored = torch.rand(count, generator=generator).to(device) < 0.5
        return torch.where(mirrored[:, None, None, None], crops.flip(3), crops)


@dataclass(frozen=True)
class Normalize:
    """`(x / scale - mean) / std` per channel of `(B, C, ...)`, as float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, batch: Tensor) -> Tensor:
        """The normalized batch."""
        shape = (1, -1) + (1,) * (batch.ndim - 2)
        mean = torch.tensor(self.mean, device=batch.device).view(shape) * self.scale
        std = torch.tensor(self.std, device=batch.device).view(shape) * self.scale
        return batch.float().sub_(mean).div_(std)


def stratified(targets: np.ndarray, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows split into (the larger part, `share` of every class), both ascending.

    Each class gives its rounded share, at least one row when it has two or more. The draw depends
    on `seed` and the targets alone.
    """
    rng, held = np.random.default_rng(seed), []
    for label in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == label))
        count = max(round(share * len(rows)), 1 if len(rows) > 1 else 0)
        held.append(rows[:count])
    out = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(targets)), out)
    return torch.from_numpy(rest), torch.from_numpy(out)


def split_size(loader: object) -> int | None:
    """How many samples a loader has in one pass; None where that cannot be told without a pass.

    >>> split_size([(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(2, 3), torch.zeros(2))])
    6
    """
    if isinstance(loader, TensorLoader):
        return len(loader.rows)
    if isinstance(loader, list | tuple):
        sizes = [
            next(
                (len(leaf) for leaf in tree_leaves(b) if isinstance(leaf, Tensor) and leaf.dim()), 0
            )
            for b in loader
        ]
        return sum(sizes) or None
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers, without neighboring seeds sharing a stream."""
    words = np.random.SeedSequence([abs(seed), int(seed < 0), epoch]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))
