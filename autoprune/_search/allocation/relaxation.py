"""Lagrangian relaxation: the loads are linearized around a choice, again at each new choice.

With a price (a Lagrange multiplier) on the linearized load, each item has its best option by
itself. Prices are scanned, and the exact load of all resulting choices is computed.
"""

from __future__ import annotations

import itertools

import numpy as np

from autoprune._search.allocation.exchange import fill
from autoprune._search.allocation.problem import Bounded, Floats, Problem, Rows

_PRICES = 24
_ZOOMED = 12
_RADII = (1, 2, 4)  # how far an option may be from the one before; all of them in the first round
_ALL = 1 << 30


def relax(bounded: Bounded, row: Rows, rounds: int = 8, *, far: bool = True) -> Rows | None:
    """The least sensitive choice within the limits that was met from `row` on, itself included.

    None where none was within. With `far`, the first round may choose any options, not only near
    ones.
    """
    best = row if bounded.fits(row[None])[0] else None
    least = np.inf if best is None else bounded.total(row)
    stalled = 0
    for number in range(rounds):
        found = _scanned(bounded, row, (*_RADII, _ALL) if far and number == 0 else _RADII)
        if found is None:
            break
        found = fill(bounded, found)
        total = bounded.total(found)
        stalled = 0 if total < least * 0.999 else stalled + 1
        if total < least:
            best, least = found, total
        if stalled == 2 or (found == row).all():
            break
        row = found
    return best


def _scanned(bounded: Bounded, row: Rows, radii: tuple[int, ...]) -> Rows | None:
    """The least sensitive of the choices at all prices that are within the limits."""
    problem = bounded.problem
    added = _added(bounded, row, max(radii)) @ _mixes(len(bounded.limits)).T
    prices = _prices(problem, row, added)
    best, least = None, np.inf
    for _ in range(2 if len(prices) else 0):
        picked = [_picked(bounded, row, added, prices, radius) for radius in radii]
        rows = np.concatenate(picked)
        totals = np.where(bounded.fits(rows), problem.total(rows), np.inf)
        place = int(totals.argmin())
        if totals[place] < least:
            best, least = rows[place], totals[place]
        at = place % len(picked[0]) // added.shape[2]
        ends = prices[max(at - 1, 0)], prices[min(at + 1, len(prices) - 1)]
        prices = np.geomspace(*ends, _ZOOMED)
    return best


def _mixes(limits: int) -> Floats:
    """Relative prices of the limits: each alone, all alike, and two at 1:3, 1:1 and 3:1."""
    alone = np.eye(limits)
    pairs = [
        share * alone[i] + (1.0 - share) * alone[j]
        for i, j in itertools.combinations(range(limits), 2)
        for share in (0.25, 0.5, 0.75)
    ]
    return np.array([*alone, *pairs, *([alone.mean(axis=0)] if limits > 2 else [])])


def _added(bounded: Bounded, row: Rows, radius: int) -> Floats:
    """`items x options x limits`: what each option adds to the load, as a share of the limit.

    Inside a dropped block, what it would add if the block were there.
    """
    problem = bounded.problem
    reference = np.repeat(row[None], len(row), axis=0)
    for block, members in problem.members.items():
        if bounded.free[block]:
            reference[members, block] = 1
    options = np.arange(problem.values.shape[1])
    near = (np.abs(options - row[:, None]) <= radius) & bounded.free[:, None]
    items, chosen = np.nonzero(near & np.isfinite(problem.sensitivities))
    rows = reference[items]
    rows[np.arange(len(rows)), items] = chosen
    loads = problem.loads(np.concatenate([rows, reference]))
    added = np.zeros((*problem.values.shape, loads.shape[1]))
    added[items, chosen] = (loads[: len(rows)] - loads[len(rows) :][items]) / bounded.limits
    return added


def _prices(problem: Problem, row: Rows, added: Floats) -> Floats:
    """Prices at which single options become better than the row's, some of all; ascending."""
    sensitivities = problem.sensitivities
    worse = sensitivities - sensitivities[np.arange(len(row)), row][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        even = worse[:, :, None] / -added
    even = even[np.isfinite(even) & (even > 0)]
    if not len(even):
        return np.asarray(even)
    prices = np.quantile(even, np.linspace(0.0, 1.0, _PRICES))
    return np.array([prices[0] / 4.0, *prices, prices[-1] * 4.0])


def _picked(bounded: Bounded, row: Rows, added: Floats, prices: Floats, radius: int) -> Rows:
    """`prices and mixes x items`: every item's best option, with its block or without."""
    problem = bounded.problem
    shape = problem.values.shape
    near = np.abs(np.arange(shape[1]) - row[:, None]) <= np.where(bounded.free, radius, 0)[:, None]
    mild = np.where(near, problem.sensitivities, np.inf)
    mild[list(problem.members)] = problem.sensitivities[list(problem.members)]
    paid = prices[:, None, None, None] * np.moveaxis(added, 2, 0)
    values = (mild + paid).reshape(-1, *shape)
    picked = values.argmin(axis=2)
    least = np.take_along_axis(values, picked[:, :, None], axis=2)[:, :, 0]
    for block, members in problem.members.items():
        kept = values[:, block, 1] + least[:, members].sum(axis=1)
        present = kept <= values[:, block, 0] if bounded.free[block] else row[block] > 0
        picked[:, block] = present
    return np.asarray(picked)
