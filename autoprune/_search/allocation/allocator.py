"""The least sensitive model within limits on any costs: widths, dropped blocks, precision."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoprune._search.allocation.exchange import exchange, fill
from autoprune._search.allocation.problem import Bounded, Item, Load, Problem, Rows, Sensitivity
from autoprune._search.allocation.relaxation import relax

__all__ = ["Allocator", "Choice", "Item", "Sensitivity", "one_by_one", "total_sensitivity"]

Choice = dict[str, int]  # the chosen option of every item

EFFORT = 60_000
_LITTLE = 1e-12
_SHARES = np.linspace(1.0, 0.0, 65)
_LEVELS = 8  # within a factor of two


class Allocator:
    """Choices of one option for each item with the least total sensitivity within limits.

    `sensitivity(item, option)` is what the option alone costs in quality; the total adds them up,
    without the items inside dropped blocks. `load(options)` turns `choices x items` (the values of
    the options, in the order of the items) into `choices` or `choices x limits` loads; it is asked
    for many choices at once, need not add up over the items, and must not depend on what is inside
    a dropped block.

    The best of several starts, each improved by Lagrangian steps (`relax`) and exchanges, then
    kicked: one item is set to another option, and the rest follows. No kick is begun after `effort`
    loads, for each combination of the global items. Deterministic. A heuristic: how far it is from
    the best of all on small problems is in `results/allocator`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sensitivity: Sensitivity,
        load: Load,
        *,
        effort: int = EFFORT,
    ) -> None:
        """See `Item` for what may be chosen; ValueError for items that do not go together."""
        self._problem = Problem(items, sensitivity, load)
        self._effort = effort
        self._levels: dict[float, Choice | None] = {}

    @staticmethod
    def of_widths(
        widths: Mapping[str, Sequence[int]],
        sensitivity: Sensitivity,
        load: Callable[[Mapping[str, int]], float | Sequence[float]],
        *,
        effort: int = EFFORT,
    ) -> Allocator:
        """For groups alone, with a load that takes one choice by name: slower."""
        items = [Item(name, tuple(options)) for name, options in widths.items()]
        return Allocator(items, sensitivity, one_by_one(load, list(widths)), effort=effort)

    def total(self, choice: Mapping[str, int]) -> float:
        """The total sensitivity of a choice."""
        return float(self._problem.total(self._row(choice)[None])[0])

    def at(
        self, limits: float | Sequence[float], starts: Sequence[Mapping[str, int]] = ()
    ) -> Choice:
        """The choice for loads of at most `limits` (one for all, or one for each).

        It is no worse than a start within the limits, or than uniform widths with what is left of
        the limits given to single items. The smallest of every option where none was found within.
        """
        found = self._solve(limits, starts)
        return self._choice(np.zeros_like(self._problem.last) if found is None else found)

    def about(self, limit: float) -> Choice:
        """As `at` for one limit, quick from the second time on that a similar one is asked for.

        It is the choice of the next lower of some fixed limits (8 within a factor of two), filled
        up.
        """
        level = 2.0 ** (math.floor(math.log2(limit) * _LEVELS) / _LEVELS) if limit > 0.0 else 0.0
        if level not in self._levels:
            found = self._solve(level, ())
            self._levels[level] = None if found is None else self._choice(found)
        lower = self._levels[level]
        if lower is None:
            return self.at(limit)
        return self._choice(fill(self._bounded(limit), self._row(lower)))

    def _solve(
        self, limits: float | Sequence[float], starts: Sequence[Mapping[str, int]]
    ) -> Rows | None:
        problem, bounded = self._problem, self._bounded(limits)
        everywhere = np.flatnonzero(problem.is_global)
        places = [range(problem.counts[place]) for place in everywhere]
        combinations = list(itertools.product(*places))
        found = []
        for chosen in combinations:
            fixed = problem.last.copy()
            fixed[everywhere] = chosen
            rows = [self._row(start) for start in starts]
            for row in rows:
                row[everywhere] = chosen
            best = self._improved(bounded, fixed, rows, self._effort)
            if best is not None:
                found.append(best)
        return min(found, key=bounded.total, default=None)

    def _improved(
        self, bounded: Bounded, whole: Rows, starts: Sequence[Rows], effort: int
    ) -> Rows | None:
        until = self._problem.evaluated + effort
        best: Rows | None = None
        for start in self._starts(bounded, whole, starts):
            found = relax(bounded, start)
            if found is not None:
                found = exchange(bounded, fill(bounded, found))
                best = found if best is None else min(best, found, key=bounded.total)
        return None if best is None else self._kicked(bounded, best, until)

    def _starts(self, bounded: Bounded, whole: Rows, starts: Sequence[Rows]) -> Iterator[Rows]:
        """Uniform widths within the limits and those given, filled up, and the smallest of all."""
        problem = self._problem
        fixed = ~bounded.free
        fixed[list(problem.members)] = True
        rows = np.rint(np.outer(_SHARES, problem.last)).astype(np.int64)
        rows[:, fixed] = whole[fixed]
        fits = bounded.fits(rows)
        if fits.any():
            yield fill(bounded, rows[fits.argmax()])
        for row in starts:
            yield fill(bounded, row) if bounded.fits(row[None])[0] else row
        smallest = np.where(bounded.free, 0, whole)
        yield fill(bounded, smallest) if bounded.fits(smallest[None])[0] else smallest

    def _kicked(self, bounded: Bounded, best: Rows, until: int) -> Rows:
        """Better from any option forced on one item, as long as that helps and effort is left."""
        before = None
        while before is not best:
            before = best
            for item, option in self._kicks(bounded, best):
                if self._problem.evaluated >= until:
                    return best
                row, free = best.copy(), bounded.free.copy()
                row[item], free[item] = option, False
                found = relax(replace(bounded, free=free), row, rounds=1, far=False)
                found = None if found is None else fill(bounded, found)
                if found is not None and bounded.total(found) < bounded.total(best) - _LITTLE:
                    best = exchange(bounded, found)
        return best

    def _kicks(self, bounded: Bounded, row: Rows) -> list[tuple[int, int]]:
        """Items and other options, those first that are near and whose item weighs most."""
        everything = np.arange(len(row))
        smallest = bounded.changed(row, everything, np.zeros_like(row))
        largest = bounded.changed(row, everything, self._problem.last)
        spread = self._problem.loads(largest) - self._problem.loads(smallest)
        weight = np.abs(spread / bounded.limits).max(axis=1)
        items, options = bounded.steps(row, lambda distance: distance != 0)
        order = np.argsort(-weight[items] / np.abs(options - row[items]), kind="stable")
        return list(zip(items[order].tolist(), options[order].tolist(), strict=True))

    def _bounded(self, limits: float | Sequence[float]) -> Bounded:
        problem = self._problem
        count = problem.loads(problem.last[None]).shape[1]
        spread = np.broadcast_to(np.asarray(limits, dtype=np.float64), (count,))
        return Bounded(problem, np.maximum(spread, 1e-300), ~problem.is_global)

    def _row(self, choice: Mapping[str, int]) -> Rows:
        """Option places; the next smaller option where an item has not just that one."""
        found = [np.searchsorted(i.options, choice[i.name], "right") for i in self._problem.items]
        return np.maximum(np.array(found, dtype=np.int64) - 1, 0)

    def _choice(self, row: Rows) -> Choice:
        """By name; what is inside a dropped block counts as whole."""
        matters = self._problem.matters(row[None])[0]
        places = np.where(matters, row, self._problem.last)
        pairs = zip(self._problem.items, places, strict=True)
        return {item.name: item.options[place] for item, place in pairs}


def one_by_one(
    load: Callable[[Mapping[str, int]], float | Sequence[float]], names: Sequence[str]
) -> Load:
    """A load of many choices from that of one, given by name."""

    def loads(options: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([load(dict(zip(names, row, strict=True))) for row in options.tolist()])

    return loads


def total_sensitivity(sensitivity: Sensitivity, widths: Mapping[str, int]) -> float:
    """The sensitivities of all groups, each alone, added."""
    return sum(sensitivity(name, units) for name, units in widths.items())
