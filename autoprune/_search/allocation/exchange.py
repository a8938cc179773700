"""Local search among choices within the limits: single steps up, then exchanges of two items."""

from __future__ import annotations

import numpy as np

from autoprune._search.allocation.problem import Bounded, Floats, Rows

_STRIDES = (1, 2, 4, 8)
_RESTORED = (0.0, 0.25, 0.5, 0.75, 1.0)  # widths of a block that comes back, relative
_FEW = 600  # options; above, only near ones are exchanged
_NEAR = 3
_CHECKED = 256  # exchanges whose load is computed, a kind
_TINY = 1e-12


def fill(bounded: Bounded, row: Rows) -> Rows:
    """A choice within the limits, raised until no single step up fits that lowers its total."""
    problem = bounded.problem
    while True:
        rows = np.concatenate(
            [
                bounded.changed(row, *bounded.steps(row, lambda d: np.isin(d, _STRIDES))),
                _restored(bounded, row),
            ]
        )
        if not len(rows):
            return row
        loads = problem.loads(rows)
        gain = bounded.total(row) - problem.total(rows)
        useful = (loads <= bounded.limits).all(axis=1) & (gain > _TINY)
        if not useful.any():
            return row
        rows, loads, gain = rows[useful], loads[useful], gain[useful]
        before = problem.loads(row[None])[0]
        room = np.maximum(bounded.limits - before, _TINY)
        price = np.maximum((loads - before) / room, 1e-9).max(axis=1)
        orders = (np.argsort(-gain, kind="stable"), np.argsort(-gain / price, kind="stable"))
        found = bounded.best(np.concatenate([_joined(row, rows[order]) for order in orders]))
        if found is None:  # just at a limit: loads of another batch may be rounded otherwise
            found = rows[gain.argmax()]
        row = found


def exchange(bounded: Bounded, row: Rows, rounds: int = 50) -> Rows:
    """A choice within the limits, improved by raising one item while another one is lowered.

    Exchanges are ordered by what they gain; those whose loads add up to more than a limit are tried
    too, for where two items meet, loads do not add up.
    """
    for _ in range(rounds):
        better = _exchanged(bounded, row)
        if better is None:
            return row
        row = fill(bounded, better)
    return row


def _exchanged(bounded: Bounded, row: Rows) -> Rows | None:
    problem = bounded.problem
    reach = _NEAR if problem.counts[bounded.free].sum() > _FEW else problem.values.shape[1]
    steps = bounded.changed(row, *bounded.steps(row, lambda d: np.abs(d) <= reach))
    steps = np.concatenate([steps, _restored(bounded, row)])
    total = bounded.total(row)
    gain = total - problem.total(steps)
    up, down = steps[gain > 0], steps[gain <= 0]
    if not len(up):
        return None
    added = problem.loads(steps) - problem.loads(row[None])
    rest = bounded.limits - problem.loads(row[None])[0]
    pairs = _pairs(gain, added, rest)
    left, right = up[pairs[:, 0]], down[pairs[:, 1]]
    apart = ~((left != row) & (right != row)).any(axis=1)
    rows = np.concatenate([np.where(left != row, left, right)[apart], up])
    rows = rows[problem.total(rows) < total - _TINY]
    rows = rows[bounded.fits(rows)] if len(rows) else rows
    if not len(rows):
        return None
    order = np.argsort(problem.total(rows), kind="stable")
    return bounded.best(_joined(row, rows[order]))


def _pairs(gain: Floats, added: Floats, rest: Floats) -> Rows:
    """Pairs of (a step that gains, one that loses), the most gainful ones that fit, and do not."""
    up, down = gain > 0, gain <= 0
    sums = gain[up][:, None] + gain[down]
    fits = (added[up][:, None] + added[down] <= rest + _TINY).all(axis=2)
    found = []
    for kind in (fits, ~fits):
        pairs = np.argwhere(kind & (sums > _TINY))
        gains = sums[pairs[:, 0], pairs[:, 1]]
        found.append(pairs[np.argsort(-gains, kind="stable")[:_CHECKED]])
    return np.concatenate(found)


def _restored(bounded: Bounded, row: Rows) -> Rows:
    """The row with one dropped block back, at several widths of what is inside."""
    problem, found = bounded.problem, [row[None][:0]]
    for block, members in problem.members.items():
        if row[block] == 0 and bounded.free[block]:
            rows = np.repeat(row[None], len(_RESTORED), axis=0)
            rows[:, block] = 1
            inside = members[bounded.free[members]]
            rows[:, inside] = np.rint(np.outer(_RESTORED, problem.last[inside]))
            found.append(rows)
    return np.concatenate(found)


def _joined(row: Rows, rows: Rows) -> Rows:
    """The changes of the first of `rows`, of the first two, and so on; an item changes once."""
    taken = np.zeros(len(row), dtype=bool)
    found: list[Rows] = []
    for other in rows:
        changes = other != row
        if not (changes & taken).any():
            taken |= changes
            found.append(np.where(changes, other, found[-1] if found else row))
    return np.array(found)
