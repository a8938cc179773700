"""Rivals of the allocator: a greedy descent, sequential milp, Lagrangian steps alone."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_matrix

from autoprune._search.allocation.exchange import fill
from autoprune._search.allocation.problem import Bounded, Item, Load, Problem, Rows, Sensitivity
from autoprune._search.allocation.relaxation import _added, relax

Price = Callable[[Mapping[str, int]], float]
_ALL = 1 << 30


def greedy(
    choices: Mapping[str, Sequence[int]], sensitivity: Sensitivity, price: Price, limit: float
) -> dict[str, int]:
    """From the whole model down, always the next step with the least sensitivity for its saving.

    One step ahead; then filled up. What autoprune did before.
    """
    kept = {name: units[-1] for name, units in choices.items()}

    def below(name: str) -> int:
        return choices[name][bisect.bisect_left(choices[name], kept[name]) - 1]

    def rate(name: str) -> float:
        saved = now - price({**kept, name: below(name)})
        worse = sensitivity(name, below(name)) - sensitivity(name, kept[name])
        return worse / saved if saved > 0.0 else math.inf

    now = price(kept)
    queue = [(rate(name), name) for name, units in choices.items() if len(units) > 1]
    heapq.heapify(queue)
    while queue and now > limit:
        _, name = heapq.heappop(queue)
        value = rate(name)
        if queue and value > queue[0][0]:
            heapq.heappush(queue, (value, name))
            continue
        kept[name] = below(name)
        now = price(kept)
        if kept[name] > choices[name][0]:
            heapq.heappush(queue, (rate(name), name))
    return _raised(choices, sensitivity, price, limit, kept)


def _raised(
    choices: Mapping[str, Sequence[int]],
    sensitivity: Sensitivity,
    price: Price,
    limit: float,
    kept: dict[str, int],
) -> dict[str, int]:
    while True:
        back = []
        for name, units in kept.items():
            place = bisect.bisect_right(choices[name], units)
            if place < len(choices[name]):
                more = choices[name][place]
                if price({**kept, name: more}) <= limit:
                    back.append((sensitivity(name, more) - sensitivity(name, units), name, more))
        if not back:
            return kept
        _, name, more = min(back)
        kept[name] = more


class Rival:
    """An improvement of uniform widths, for each choice of the global items."""

    def __init__(self, items: Sequence[Item], sensitivity: Sensitivity, load: Load) -> None:
        self.problem = Problem(items, sensitivity, load)

    def lagrangian(self, limits: Sequence[float]) -> dict[str, int]:
        """Lagrangian steps from uniform widths, without exchanges or kicks."""
        return self._best(limits, lambda bounded, row: relax(bounded, row))

    def milp(self, limits: Sequence[float]) -> dict[str, int]:
        """Exact solutions where loads are linear, linearized again around each."""
        return self._best(limits, _sequential_milp)

    def _best(
        self, limits: Sequence[float], improve: Callable[[Bounded, Rows], Rows | None]
    ) -> dict[str, int]:
        problem = self.problem
        bounded = Bounded(problem, np.asarray(limits, dtype=float), ~problem.is_global)
        everywhere = np.flatnonzero(problem.is_global)
        found = []
        for option in range(int(problem.counts[everywhere].prod())):
            rows = np.rint(np.outer(np.linspace(1, 0, 65), problem.last)).astype(np.int64)
            rows[:, list(problem.members)] = 1
            rows[:, everywhere] = option
            fits = bounded.fits(rows)
            start = (
                rows[fits.argmax()]
                if fits.any()
                else rows[-1] * bounded.free + (rows[0] * ~bounded.free)
            )
            row = improve(bounded, start)
            if row is not None and bounded.fits(row[None])[0]:
                found.append(fill(bounded, row))
        best = min(found, key=bounded.total, default=np.zeros_like(problem.last))
        return {
            item.name: item.options[place] for item, place in zip(problem.items, best, strict=True)
        }


def _sequential_milp(bounded: Bounded, row: Rows, rounds: int = 8) -> Rows | None:
    best = row if bounded.fits(row[None])[0] else None
    for _ in range(rounds):
        before = row
        added = _added(bounded, row, _ALL)
        tight = 1.0
        for _ in range(6):
            found = _linear(bounded, row, added, tight)
            if found is None:
                return best
            if bounded.fits(found[None])[0]:
                break
            tight *= 0.97
        else:
            row = found
            continue
        found = fill(bounded, found)
        if best is None or bounded.total(found) < bounded.total(best):
            best = found
        row = found
        if (row == before).all():
            break
    return best


def _linear(bounded: Bounded, row: Rows, added: np.ndarray, tight: float) -> Rows | None:
    """The least sensitive choice of the linear loads, each limit times `tight`."""
    problem = bounded.problem
    allowed = np.isfinite(problem.sensitivities)
    options = np.arange(allowed.shape[1])
    allowed[~bounded.free] = options == row[~bounded.free][:, None]
    items, chosen = np.nonzero(allowed)
    columns = {pair: n for n, pair in enumerate(zip(items.tolist(), chosen.tolist(), strict=True))}
    # every item has one option, none inside a dropped block
    entries = [(item, n, 1.0) for n, item in enumerate(items.tolist())]
    entries += [
        (item, columns[int(block), 1], -1.0)
        for item, block in enumerate(problem.parent.tolist())
        if block >= 0
    ]
    lines, places, values = zip(*entries, strict=True)
    once = coo_matrix((values, (lines, places)), shape=(len(row), len(items))).tocsr()
    total = np.where(problem.parent < 0, 1.0, 0.0)
    base = problem.loads(row[None])[0] / bounded.limits
    costs = added[items, chosen].T
    current = np.zeros(len(base))
    for item in np.flatnonzero(problem.matters(row[None])[0]):
        current += added[item, row[item]]
    most = tight - base + current
    solved = milp(
        problem.sensitivities[items, chosen],
        constraints=[LinearConstraint(once, total, total), LinearConstraint(costs, -np.inf, most)],
        integrality=np.ones(len(items)),
        bounds=(0, 1),
        options={"time_limit": 10.0, "mip_rel_gap": 1e-4},
    )
    if solved.x is None:
        return None
    found = problem.last.copy()
    picked = solved.x > 0.5
    found[items[picked]] = chosen[picked]
    return found
