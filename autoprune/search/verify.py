"""The end of a search: its front, every member measured alone beside the dense model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from autoprune.budget import Budget, Cost
from autoprune.cost.inputs import Inputs
from autoprune.cost.latency import measured_or_flagged
from autoprune.cost.memory import counted_and_weighed
from autoprune.graph import PruningGraph
from autoprune.pareto import Objective, ParetoFront
from autoprune.pruning.surgery import prune
from autoprune.record import TrialRecord
from autoprune.store import read_model

TOGETHER = 6  # models that take turns with the dense one


@dataclass(frozen=True)
class Gauge:
    """Measures models where the budget counts: inputs at its batch, its runtime and threads."""

    dense: nn.Module
    graph: PruningGraph
    example: Inputs
    inputs: Inputs
    runtime: str
    threads: int

    def measure(self, models: Sequence[nn.Module]) -> list[tuple[Cost, Cost]]:
        """(cost of the model, cost of the dense model beside it), both measured."""
        found: list[tuple[Cost, Cost]] = []
        for start in range(0, len(models), TOGETHER):
            group = [self.dense, *models[start : start + TOGETHER]]
            latencies = measured_or_flagged(group, self.inputs, self.runtime, self.threads)
            costs = [
                latency.added_to(
                    counted_and_weighed(model, self.example, self.runtime, self.threads)
                )
                for model, latency in zip(group, latencies, strict=True)
            ]
            found += [(cost, costs[0]) for cost in costs[1:]]
        return found

    def load(self, artifact: Path) -> nn.Module:
        """A finished model of the run, in eval mode."""
        recipe, state = read_model(artifact)
        small = copy.deepcopy(self.dense)
        prune(small, self.graph, recipe["keep"])
        small.load_state_dict(state, strict=True)
        return small.eval()


@dataclass(frozen=True)
class Verified:
    """The front by measured cost, the dense model's, and who is over budget when measured."""

    front: ParetoFront
    dense: Cost | None
    over: dict[int, dict[str, float]]


def verify(
    records: Sequence[TrialRecord],
    folder: Path,
    gauge: Gauge,
    budget: Budget,
    front_of: Callable[[Sequence[TrialRecord]], ParetoFront],
    save: Callable[[TrialRecord], None],
    dense: Cost | None = None,
) -> Verified:
    """Measure the front until every member of it is measured and within the budget.

    `front_of` gives the front of records by predicted cost. Where members turn out to be over
    budget, those that they had kept off the front are measured in their turn. Uniform baselines are
    measured too, so that the report compares what was measured. `save` is called with each record
    that was measured; a record measured before is not measured again.
    """
    current = {record.number: record for record in records}
    over: dict[int, dict[str, float]] = {}
    for record in records:
        if record.measured is not None and dense is not None:
            _judge(record, dense, budget, over)
    while True:
        left = [record for record in current.values() if record.number not in over]
        front = front_of(left)
        beside_it = [r for r in left if r.is_baseline and r not in front.members]
        asked = [*front.members, *beside_it]
        new = [r for r in asked if r.measured is None and r.artifact is not None]
        if not new:
            break
        models = [gauge.load(folder / str(record.artifact)) for record in new]
        for record, (cost, beside) in zip(new, gauge.measure(models), strict=True):
            dense = dense or beside
            found = replace(record, measured=cost)
            current[found.number] = found
            save(found)
            _judge(found, beside, budget, over)
    within = [current[r.number] for r in front.members if current[r.number].measured is not None]
    final = ParetoFront(front.objectives, tuple(within), front.reference, "measured")
    return Verified(final, dense, over)


def _judge(
    record: TrialRecord, dense: Cost, budget: Budget, over: dict[int, dict[str, float]]
) -> None:
    assert record.measured is not None
    found = budget.known_of(record.measured, dense).violations(record.measured, dense)
    if any(value > 0.0 for value in found.values()):
        over[record.number] = found


def objectives_of(names: Sequence[str], metric: str, direction: str) -> tuple[Objective, ...]:
    """The objectives by name, the task's metric first; costs are minimised."""
    costs = [Objective(name) for name in names if name != metric]
    maximise = direction == "maximize"
    return (Objective(metric, "maximize" if maximise else "minimize"), *costs)
