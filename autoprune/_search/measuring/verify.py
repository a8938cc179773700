"""Verification of the front: every member is measured together with the dense model.

Members are measured on each target device that is not offline; on the others there is only the
prediction, which is never mixed with measurements.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from autoprune._search.measuring.target_devices import FinishedModel, TargetDevice, measured
from autoprune._search.plan import Plan
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost
from autoprune.candidate import Candidate
from autoprune.cost.inputs import Inputs
from autoprune.errors import DeviceError, StoreError
from autoprune.graph import PruningGraph
from autoprune.pareto import Objective, ParetoFront
from autoprune.pruning.build import build
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, pack, read_model, recipe_of, with_file_bytes

_LOG = logging.getLogger(__name__)
TOGETHER = 6  # models that are measured interleaved with the dense one


@dataclass(frozen=True)
class MeasurementRig:
    """Measures models on every target device that is not offline."""

    dense: nn.Module
    graph: PruningGraph
    example: Inputs
    targets: tuple[TargetDevice, ...]

    def measure(self, models: Sequence[FinishedModel]) -> list[tuple[Cost, Cost]]:
        """(cost of the model, cost of the dense model beside it), both measured."""
        found: list[tuple[Cost, Cost]] = []
        for start in range(0, len(models), TOGETHER):
            group = [FinishedModel(self.dense), *models[start : start + TOGETHER]]
            costs = measured(group, self.example, self.targets)
            found += [(cost, costs[0]) for cost in costs[1:]]
        return found

    @cached_property
    def dense_file_bytes(self) -> int:
        """The size of the dense model's packed file."""
        sizes = self.graph.sizes()
        kept = {name: range(size) for name, size in sizes.items()}
        recipe = recipe_of(Candidate(Architecture.dense(sizes)), kept, task="")
        return len(pack(recipe, self.dense.state_dict()))

    def load(self, artifact: Path) -> FinishedModel:
        """A finished model of the run, in eval mode."""
        recipe, state = read_model(artifact)
        small = build(
            self.dense,
            self.graph,
            recipe.candidate.architecture.without_patterns(),
            kept_indices=recipe.kept_indices,
        ).model
        small.load_state_dict(state, strict=True)
        return FinishedModel(small.eval(), recipe.candidate.architecture.precision)


@dataclass(frozen=True)
class Verified:
    """The front by measured cost, the dense model's cost, and the trials that are over budget.

    If a device could not be reached, `failure` says why in one line, and the front is by predicted
    cost, without the trials that had already been found over budget.
    """

    front: ParetoFront
    dense: Cost | None
    over: dict[int, dict[str, float]]
    failure: str | None = None


def verify(
    records: Sequence[TrialRecord],
    store: RunFolder,
    rig: MeasurementRig,
    plan: Plan,
    save: Callable[[TrialRecord, Cost], None],
    dense: Cost | None = None,
) -> Verified:
    """Measure the front until every member of it is measured and within the budget.

    If members of the predicted front turn out to be over budget, those that they dominated are
    measured next. Baselines are measured too, so that the report compares what was measured, and
    one that turns out better than a member takes its place. `save` is called with each record that
    was measured, and the dense model's cost; that is given as `dense` where records were measured
    before (in an interrupted session), which are not measured again.
    """
    known = records if dense is not None else [replace(r, measured=None) for r in records]
    current = {record.number: record for record in known}
    over: dict[int, dict[str, float]] = {}
    for record in known:
        if dense is not None:
            _check_limits(record, dense, plan, over)
    while True:
        left = [r for r in current.values() if r.number not in over and _is_there(r)]
        front = ParetoFront(plan.objectives, tuple(left), plan.reference)
        baselines = [r for r in left if r.baseline and r not in front.members]
        asked = [*front.members, *baselines]
        new = [r for r in asked if r.measured is None and r.artifact is not None][:TOGETHER]
        if not new:
            break
        models = {r.number: model for r in new if (model := _loaded(r, rig, store)) is not None}
        lost = {r.number: replace(r, artifact=None) for r in new if r.number not in models}
        if lost:
            current |= lost
            continue
        try:
            costs = rig.measure(list(models.values()))
            _check_device(new, costs)
        except DeviceError as error:
            return Verified(front, dense, over, str(error))
        for record, pair in zip(new, costs, strict=True):
            cost, beside = _with_files(record, store, rig, pair)
            dense = dense or beside
            found = replace(record, measured=cost)
            current[found.number] = found
            save(found, dense)
            _check_limits(found, beside, plan, over)
    within = [record for record in left if record.measured is not None]  # baselines, too
    offline = tuple(target.name for target in rig.targets if target.is_offline)
    final = replace(front, records=tuple(within), source="measured", predicted_only=offline)
    return Verified(final, dense, over)


def _is_there(record: TrialRecord) -> bool:
    """Whether it is measured, or can be: its model was kept."""
    return record.measured is not None or record.artifact is not None


def _loaded(record: TrialRecord, rig: MeasurementRig, store: RunFolder) -> FinishedModel | None:
    """A finished model; None where its file is damaged, with a warning."""
    try:
        return rig.load(store.model_folder(record))
    except StoreError as error:
        _LOG.warning("trial %d is left out of the front: %s", record.number, error)
        return None


def _with_files(
    record: TrialRecord, store: RunFolder, rig: MeasurementRig, pair: tuple[Cost, Cost]
) -> tuple[Cost, Cost]:
    """The measured costs of a model and of dense with the sizes of their files, where asked for."""
    if record.predicted is None or record.predicted.file_bytes is None:
        return pair
    small = with_file_bytes(pair[0], store.model_folder(record))
    return small, replace(pair[1], file_bytes=rig.dense_file_bytes)


def _check_device(records: Sequence[TrialRecord], costs: Sequence[tuple[Cost, Cost]]) -> None:
    """Raise DeviceError where a device is not the one for which latencies were predicted."""
    for record, (cost, _) in zip(records, costs, strict=True):
        for name in cost.names or ("",):
            expected = record.predicted.device_of(name) if record.predicted else None
            found = cost.device_of(name)
            if expected and found and found.name != expected.name:
                raise DeviceError(
                    f"latencies were predicted for {expected.name}, but {found.runtime} is "
                    f"{found.name} now · profile that one"
                )


def _check_limits(
    record: TrialRecord, dense: Cost, plan: Plan, over: dict[int, dict[str, float]]
) -> None:
    """Check each limit against the measured cost; against the predicted one where it is unknown.

    That is the latency of an offline device, and the memory of a runtime that does not report it.
    """
    measured, predicted = record.measured, record.predicted
    if measured is None:
        return
    known = plan.budget.known_of(measured, dense)
    found = known.violations(measured, dense)
    if predicted is not None:
        rest = tuple(limit for limit in plan.budget.limits if limit not in known.limits)
        found |= Budget(rest).violations(predicted, plan.dense)
    if any(value > 0.0 for value in found.values()):
        over[record.number] = found


def objectives_of(names: Sequence[str], metric: str, direction: str) -> tuple[Objective, ...]:
    """The objectives by name, the task's metric first; costs are minimized."""
    costs = [Objective(name) for name in names if name != metric]
    maximize = direction == "maximize"
    return (Objective(metric, "maximize" if maximize else "minimize"), *costs)
