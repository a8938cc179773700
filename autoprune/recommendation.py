"""Which model of a front is recommended: the cheapest whose quality is good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.cost_fields import is_cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.quality import QualityLimit
from autoprune.record import TrialRecord


@dataclass(frozen=True)
class Recommendation:
    """The recommended member of a front.

    `within` are the numbers of all members that meet `limits`; where none does, the recommended one
    is the nearest (see `distance`), and `broken` are the metrics whose limits it does not meet.
    `cost` is the first cost of the front, by which the cheapest was chosen; `unknown` names a
    metric of the dense model that a limit needs and nobody knows.
    """

    record: TrialRecord
    limits: tuple[QualityLimit, ...]
    within: tuple[int, ...]
    cost: str
    unknown: str = ""
    broken: tuple[str, ...] = ()

    @property
    def is_within(self) -> bool:
        """Whether it meets the limits."""
        return self.record.number in self.within


def recommend(
    front: ParetoFront, dense: Mapping[str, float], limits: Sequence[QualityLimit]
) -> Recommendation | None:
    """The cheapest member within the limits, the nearest one where none is; None of an empty front.

    Of several as near it is the best in the metric, and of these the cheapest. Where the dense
    model's metric is not known and a limit is relative to it, the knee.
    """
    if not front.members or front.knee is None:
        return None
    cost = next((o.name for o in front.objectives if is_cost(o.name)), "")
    asked = tuple(limits)
    missing = [it.metric for it in asked if it.is_relative and it.metric not in dense]
    if missing:
        return Recommendation(front.knee, asked, (), cost, missing[0])
    within = [r for r in front.members if not violations(r.metrics, dense, asked, front.objectives)]
    numbers = tuple(record.number for record in within)
    if within:
        return Recommendation(within[0], asked, numbers, cost)  # members are by rising cost
    nearest = _nearest(front, dense, asked)
    short = violations(nearest.metrics, dense, asked, front.objectives)
    broken = dict.fromkeys(limit.metric for limit in asked if str(limit) in short)
    return Recommendation(nearest, asked, numbers, cost, broken=tuple(broken))


def _nearest(
    front: ParetoFront, dense: Mapping[str, float], limits: Sequence[QualityLimit]
) -> TrialRecord:
    metric = next((o for o in front.objectives if not is_cost(o.name)), None)

    def rank(record: TrialRecord) -> tuple[float, float]:
        value = front.value(metric.name, record) if metric else None
        far = distance(record.metrics, dense, limits, front.objectives)
        return far, math.inf if metric is None or value is None else metric.sign * value

    return min(front.members, key=rank)  # members are by rising cost


def distance(
    metrics: Mapping[str, float],
    dense: Mapping[str, float],
    limits: Sequence[QualityLimit],
    objectives: Sequence[Objective],
) -> float:
    """The sum of the violations of the limits, each as a share of its bound; 0 where all are met.

    >>> limits = [QualityLimit("recall", ">=", 0.8), QualityLimit("loss", "<=", 0.5)]
    >>> distance({"recall": 0.6, "loss": 0.6}, {}, limits, ())    # 0.2 of 0.8, and 0.1 of 0.5
    0.45
    """
    short = violations(metrics, dense, limits, objectives)
    return sum(
        short.get(str(limit), 0.0) / (abs(_bound(limit, dense, objectives)) or 1.0)
        for limit in limits
    )


def violations(
    metrics: Mapping[str, float],
    dense: Mapping[str, float],
    limits: Sequence[QualityLimit],
    objectives: Sequence[Objective],
) -> dict[str, float]:
    """By how much each limit is not met, by its words; a metric that is missing counts as 1.

    `dense` must hold the metrics of relative limits.
    """
    found = {}
    for limit in limits:
        value, over = metrics.get(limit.metric), 1.0
        if value is not None:
            is_up = _is_maximized(limit, objectives)
            over = limit.violation(value, dense.get(limit.metric, 0.0), is_up)
        if over > _TOLERANCE:
            found[str(limit)] = over
    return found


def _bound(
    limit: QualityLimit, dense: Mapping[str, float], objectives: Sequence[Objective]
) -> float:
    return limit.bound(dense.get(limit.metric, 0.0), _is_maximized(limit, objectives))


def _is_maximized(limit: QualityLimit, objectives: Sequence[Objective]) -> bool:
    return all(o.direction == "maximize" for o in objectives if o.name == limit.metric)


_TOLERANCE = 1e-12  # of a bound that was computed
