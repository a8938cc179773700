"""The end of a search: its front, every member measured alone beside the dense model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from autoprune.budget import Budget, Cost
from autoprune.cost.analytic import count_cost
from autoprune.cost.inputs import Inputs
from autoprune.cost.latency import measure_together
from autoprune.errors import DeviceError
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
            latencies = measure_together(group, self.inputs, self.runtime, threads=self.threads)
            costs = [
                latency.added_to(count_cost(model, self.example))
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
    """The front by measured cost, the dense model's, and who is over budget when measured.

    Where the device could not be asked, `failure` says why in one line, and the front is that of
    the predicted costs, without those that were found over budget before.
    """

    front: ParetoFront
    dense: Cost | None
    over: dict[int, dict[str, float]]
    failure: str | None = None


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
    that was measured; a record measured before, beside `dense`, is not measured again.
    """
    known = records if dense is not None else [replace(r, measured=None) for r in records]
    current = {record.number: record for record in known}
    over: dict[int, dict[str, float]] = {}
    for record in known:
        if record.measured is not None and dense is not None:
            _judge(record, dense, budget, over)
    while True:
        left = [record for record in current.values() if record.number not in over]
        front = front_of(left)
        beside_it = [r for r in left if r.is_baseline and r not in front.members]
        asked = [*front.members, *beside_it]
        new = [r for r in asked if r.measured is None and r.artifact is not None][:TOGETHER]
        if not new:
            break
        models = [gauge.load(folder / str(record.artifact)) for record in new]
        try:
            costs = gauge.measure(models)
            _check_device(new, costs)
        except DeviceError as error:
            return Verified(front, dense, over, str(error))
        for record, (cost, beside) in zip(new, costs, strict=True):
            dense = dense or beside
            found = replace(record, measured=cost)
            current[found.number] = found
            save(found)
            _judge(found, beside, budget, over)
    within = [current[r.number] for r in front.members if current[r.number].measured is not None]
    final = ParetoFront(front.objectives, tuple(within), front.reference, "measured")
    return Verified(final, dense, over)


def _check_device(records: Sequence[TrialRecord], costs: Sequence[tuple[Cost, Cost]]) -> None:
    """Raise DeviceError where it is not the one for which latencies were predicted."""
    for record, (cost, _) in zip(records, costs, strict=True):
        expected = record.predicted.device if record.predicted else None
        if expected and cost.device and cost.device.name != expected.name:
            raise DeviceError(
                f"latencies were predicted for {expected.name}, but {cost.device.runtime} is "
                f"{cost.device.name} now · profile that one"
            )


def _judge(
    record: TrialRecord, dense: Cost, budget: Budget, over: dict[int, dict[str, float]]
) -> None:
    assert record.measured is not None
    found = budget.violations(record.measured, dense)
    if any(value > 0.0 for value in found.values()):
        over[record.number] = found


def objectives_of(names: Sequence[str], metric: str, direction: str) -> tuple[Objective, ...]:
    """The objectives by name, the task's metric first; costs are minimised."""
    costs = [Objective(name) for name in names if name != metric]
    maximise = direction == "maximize"
    return (Objective(metric, "maximize" if maximise else "minimize"), *costs)
