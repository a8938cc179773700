"""The allocation problem as arrays: what each choice costs, and whether it is within the limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Load = Callable[[NDArray[np.int64]], NDArray[np.float64]]
Sensitivity = Callable[[str, int], float]
Rows = NDArray[np.int64]  # one choice a row: the place of the chosen option, for each item
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_AT_ONCE = 256  # choices: their arrays stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Item:
    """One decision: its `options`, ascending, the last one being the unpruned model's.

    A pruning group's options are widths. An item with the options (0, 1) can be a block: at 0 it is
    dropped, and the items inside it have no effect. A global item (a precision)
    changes what all the others cost.
    """

    name: str
    options: tuple[int, ...]
    block: str | None = None
    is_global: bool = False

    def __post_init__(self) -> None:
        if not self.options or list(self.options) != sorted(set(self.options)):
            raise ValueError(f"options of {self.name!r} must be ascending, got {self.options}")


class Problem:
    """Sensitivities and loads of choices given as rows of option places.

    Raises ValueError for items of equal names, and for a block that is no item with options (0, 1).
    """

    def __init__(self, items: Sequence[Item], sensitivity: Sensitivity, load: Load) -> None:
        self.items = tuple(items)
        self.counts = np.array([len(item.options) for item in items])
        self.last = self.counts - 1
        shape = len(items), int(self.counts.max(initial=1))
        self.values = np.zeros(shape, dtype=np.int64)
        self.sensitivities = np.full(shape, np.inf)
        for place, item in enumerate(items):
            self.values[place, : len(item.options)] = item.options
            found = [sensitivity(item.name, option) for option in item.options]
            self.sensitivities[place, : len(found)] = found
        self.parent = _parents(self.items)
        self.members = {int(b): np.flatnonzero(self.parent == b) for b in set(self.parent) - {-1}}
        self.is_global = np.array([item.is_global for item in items], dtype=bool)
        self.evaluated = 0  # choices whose load was asked for
        self._load = load
        self._columns = np.arange(len(items))

    def loads(self, rows: Rows) -> Floats:
        """`choices x items` → `choices x limits`."""
        self.evaluated += len(rows)
        parts = [self._part(rows[at : at + _AT_ONCE]) for at in range(0, len(rows), _AT_ONCE)]
        return np.concatenate(parts) if parts else self._part(rows)

    def _part(self, rows: Rows) -> Floats:
        found = np.asarray(self._load(self.values[self._columns, rows]), dtype=np.float64)
        return found[:, None] if found.ndim == 1 else found

    def matters(self, rows: Rows) -> Mask:
        """`choices x items`: False inside a dropped block."""
        found = np.ones(rows.shape, dtype=bool)
        for block, members in self.members.items():
            found[:, members] = (rows[:, block] > 0)[:, None]
        return found

    def total(self, rows: Rows) -> Floats:
        """The sensitivity of each choice, added over its items."""
        each = self.sensitivities[self._columns, rows]
        return np.asarray(np.where(self.matters(rows), each, 0.0).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Bounded:
    """A problem with limits, in which only the `free` items may change."""

    problem: Problem
    limits: Floats
    free: Mask

    def fits(self, rows: Rows) -> Mask:
        """Which of the choices are within all limits."""
        return np.asarray((self.problem.loads(rows) <= self.limits).all(axis=1))

    def best(self, rows: Rows) -> Rows | None:
        """Of the choices within the limits the least sensitive one, None where none is within."""
        within = rows[self.fits(rows)]
        return within[np.argmin(self.problem.total(within))] if len(within) else None

    def total(self, row: Rows) -> float:
        """The sensitivity of one choice."""
        return float(self.problem.total(row[None])[0])

    def steps(self, row: Rows, allowed: Callable[[Rows], Mask]) -> tuple[Rows, Rows]:
        """Items and options that differ from the row's in places that are `allowed`.

        Without the items that may not change, or have no effect.
        """
        distance = np.arange(self.problem.values.shape[1]) - row[:, None]
        movable = self.free & self.problem.matters(row[None])[0]
        mask = allowed(distance) & (distance != 0) & movable[:, None]
        items, options = np.nonzero(mask & np.isfinite(self.problem.sensitivities))
        return items, options

    def changed(self, row: Rows, items: Rows, options: Rows) -> Rows:
        """The row with one item changed, for each of the pairs."""
        rows = np.repeat(row[None], len(items), axis=0)
        rows[np.arange(len(items)), items] = options
        return rows


def _parents(items: Sequence[Item]) -> Rows:
    places = {item.name: place for place, item in enumerate(items)}
    if len(places) < len(items):
        raise ValueError(f"items must differ in their names, got {[i.name for i in items]}")
    for item in items:
        block = items[places[item.block]] if item.block in places else None
        if item.block is not None and (block is None or block.options != (0, 1) or block.block):
            raise ValueError(
                f"the block of {item.name!r} must be an item with options (0, 1) that is in no "
                f"block itself, got {block or item.block!r}"
            )
    return np.array([places[item.block] if item.block else -1 for item in items], dtype=np.int64)
