"""Which model of a front is recommended: the cheapest whose quality is good enough."""

from __future__ import annotations

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
    is the best in the metric. `cost` is the first cost of the front, by which the cheapest was
    chosen; `unknown` names a metric of the dense model that a limit needs and nobody knows.
    """

    record: TrialRecord
    limits: tuple[QualityLimit, ...]
    within: tuple[int, ...]
    cost: str
    unknown: str = ""

    @property
    def is_within(self) -> bool:
        """Whether it meets the limits."""
        return self.record.number in self.within


def recommend(
    front: ParetoFront, dense: Mapping[str, float], limits: Sequence[QualityLimit]
) -> Recommendation | None:
    """The cheapest member within the limits, the best one where none is; None of an empty front.

    Where the dense model's metric is not known and a limit is relative to it, the knee.
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
    metric = next((o.name for o in front.objectives if not is_cost(o.name)), None)
    return Recommendation(front.best(metric) or front.members[0], asked, numbers, cost)


def violations(
    metrics: Mapping[str, float],
    dense: Mapping[str, float],
    limits: Sequence[QualityLimit],
    objectives: Sequence[Objective],
) -> dict[str, float]:
    """By how much each limit is not met, by its words; a metric that is missing counts as 1.

    `dense` must hold the metrics of relative limits.
    """
    directions = {objective.name: objective.direction for objective in objectives}
    found = {}
    for limit in limits:
        value = metrics.get(limit.metric)
        maximize = directions.get(limit.metric, "maximize") == "maximize"
        over = 1.0
        if value is not None:
            over = limit.violation(value, dense.get(limit.metric, 0.0), maximize)
        if over > _TOLERANCE:
            found[str(limit)] = over
    return found


_TOLERANCE = 1e-12  # of a bound that was computed
