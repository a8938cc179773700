"""Which finished models stay on disk: the front's, the baselines', and a reserve of the next best.

A model of the front may turn out over the budget when it is measured; those next to it take its
place then. The rest is deleted as soon as it is dominated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from autoprune._search.plan import Plan
from autoprune.pareto import non_dominated_rank
from autoprune.record import TrialRecord

RESERVE = 3  # times the models of the front


def to_delete(
    records: Iterable[TrialRecord], plan: Plan, size_of: Callable[[TrialRecord], int]
) -> tuple[list[TrialRecord], bool]:
    """(the models to delete under the plan's limits; whether those that stay are above the quota).

    `size_of` is the size of a record's model in bytes, asked only where there is a quota.
    """
    limits, records = plan.limits, list(records)
    gone = [] if limits.keep_all else dominated(records, plan)
    if limits.disk_bytes is None:
        return gone, False
    sizes = {r.number: size_of(r) for r in records if r.artifact}
    more, too_much = over_quota(records, plan, sizes, limits.disk_bytes)
    return list({record.number: record for record in [*gone, *more]}.values()), too_much


def dominated(records: Iterable[TrialRecord], plan: Plan) -> list[TrialRecord]:
    """The finished models that are not worth their space, the worst ones first.

    All but the front's and the baselines', up to `RESERVE` times as many as the front has.
    """
    ordered, front = _ordered(records, plan)
    spare = [record for record in ordered[front:] if not record.baseline]
    return spare[(RESERVE - 1) * front :][::-1]


def over_quota(
    records: Iterable[TrialRecord], plan: Plan, size_of: dict[int, int], most: float
) -> tuple[list[TrialRecord], bool]:
    """(the models to delete, the worst first; whether what has to stay is too much in itself)."""
    ordered, front = _ordered(records, plan)
    used = float(sum(size_of.get(record.number, 0) for record in ordered))
    gone = []
    for record in reversed(ordered[front:]):
        if used <= most:
            break
        gone.append(record)
        used -= size_of.get(record.number, 0)
    return gone, used > most


def _ordered(records: Iterable[TrialRecord], plan: Plan) -> tuple[list[TrialRecord], int]:
    """The records with a model, best first, and how many of them are the front."""
    there = [r for r in records if r.artifact is not None]
    values = [_minimized(record, plan) for record in there]
    rated = [(r, v) for r, v in zip(there, values, strict=True) if v is not None]
    others = [r for r, v in zip(there, values, strict=True) if v is None]
    if not rated:
        return others, 0
    ranks = non_dominated_rank(np.array([value for _, value in rated]))
    order = sorted(range(len(rated)), key=lambda n: (ranks[n], rated[n][0].number))
    return [*(rated[n][0] for n in order), *others], int((ranks == 0).sum())


def _minimized(record: TrialRecord, plan: Plan) -> Sequence[float] | None:
    """The objectives, less is better; None for a record that cannot be on the front."""
    values = plan.values(record)
    if values is None or record.predicted is None or not plan.allows(record.predicted):
        return None
    return [o.sign * value for o, value in zip(plan.objectives, values, strict=True)]
