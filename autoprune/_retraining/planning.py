"""What a retraining is asked to do: its candidate, its plan, and whether its folder is free."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprune._retraining.seeds import check_seeds
from autoprune.architecture import INT8
from autoprune.candidate import AUTO, BY_OPTIMIZER, Candidate
from autoprune.config import RunConfig
from autoprune.errors import StoreError, UsageError
from autoprune.pruning.verification import traced
from autoprune.record import TrialRecord
from autoprune.schedule import ONE_SHOT, TASK, Schedule
from autoprune.store import RetrainingFolder, RetrainingPlan, RunFolder, read_quantization
from autoprune.tasks.base import Task
from autoprune.training.optimizers import optimizer_for, rate_for_length

_LOG = logging.getLogger(__name__)
_IN_STEPS = Schedule("cubic", 0.0, 0.5, 4)
_AWARE = {
    True: "quantization-aware",
    False: "not quantization-aware",
    None: "not recorded whether quantization-aware",
}
MOST_LOST = 0.01  # of the metric, relative to float32


@dataclass(frozen=True)
class Asked:
    """The arguments of a retraining; see `retrain_trial`."""

    epochs: float
    seeds: tuple[int, ...]
    recovery: Mapping[str, Any]
    schedule: Mapping[str, Any]
    find_lr: bool = False
    quantization_aware: bool | None = None


def planned(
    run: RunFolder, config: RunConfig, task: Task, record: TrialRecord, asked: Asked
) -> tuple[TrialRecord, RetrainingPlan]:
    """The record with the candidate that is trained, and the plan.

    Raises UsageError where an argument does not fit, StoreError where the record's folder holds
    another retraining.
    """
    if not (0.0 < asked.epochs < math.inf):
        raise UsageError(f"epochs must be above 0 and finite, got {asked.epochs:g}")
    check_seeds(asked.seeds)
    candidate = with_recovery(record.candidate, asked.recovery)
    if asked.schedule:
        candidate = _rescheduled(candidate, asked.schedule, run, task)
    if "lr" not in asked.recovery:
        candidate = for_length(candidate, config, asked.epochs, task)
    record = replace(record, candidate=candidate)
    folder = run.retraining(record.number)
    there = folder.plan() if folder.has_begun else None
    aware = _simulates_int8(run, record, asked.quantization_aware, there)
    plan = RetrainingPlan(candidate.key, float(asked.epochs), asked.seeds, asked.find_lr, aware)
    is_int8 = candidate.architecture.precision == INT8
    _check_free(folder, there, plan, is_asked=is_int8 and asked.quantization_aware is not None)
    return record, plan


def with_recovery(candidate: Candidate, recovery: Mapping[str, Any]) -> Candidate:
    """With other settings of the recovery. Raises UsageError where one does not fit."""
    before = candidate.recovery
    own: dict[str, Any] = {}
    if recovery.get("optimizer", before.optimizer) != before.optimizer:
        own = {name: None for name in BY_OPTIMIZER if name not in recovery}
    for name in own:
        _LOG.warning(
            "recovery.%s is the default of %s, not the trial's %s with %s",
            *(name, recovery["optimizer"], getattr(before, name), before.optimizer),
        )
    try:
        found = replace(before, **own, **recovery)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if recovery.get("rewarm") and found.warmup == 0.0:
        raise UsageError(
            "recovery.rewarm must be false where recovery.warmup is 0: the rate rises anew over "
            "the steps of the warm-up · raise it, such as --set recovery.warmup=0.05"
        )
    return replace(candidate, recovery=found)


def for_length(candidate: Candidate, config: RunConfig, epochs: float, task: Task) -> Candidate:
    """The candidate with a learning rate for so many epochs.

    Of another optimizer than the trial's it is made of that one's default; `auto` is the one that
    fits the task's model.
    """
    named = candidate.recovery.optimizer
    recovery = candidate.recovery.resolved(_auto(task) if named == AUTO else named)
    lr = rate_for_length(recovery, config.search.epochs, epochs)
    if named == AUTO and lr == recovery.lr:
        return candidate
    return replace(candidate, recovery=replace(candidate.recovery, lr=lr))


def _auto(task: Task) -> str:
    """What `auto` means; weights do not count."""
    model = task.build_model().eval()
    graph = traced(
        model,
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )
    return optimizer_for(task, model, graph)


def _rescheduled(
    candidate: Candidate, schedule: Mapping[str, Any], run: RunFolder, task: Task
) -> Candidate:
    groups = run.groups()
    if groups is None:
        raise StoreError(f"{run.path} has no groups.json · resume the run, which writes it again")
    there = candidate.schedule if candidate.schedule.steps > 1 else _IN_STEPS
    values = {**there.to_dict(), **schedule}
    values.pop("shares", None)
    if values["kind"] == ONE_SHOT:
        values |= {"begin": schedule.get("begin", 0.0), "steps": 1}
        values["end"] = values["begin"]
    try:
        if values["kind"] == TASK:
            del values["kind"]
            planned = Schedule.of_curve(task.removed_share, **values)
        else:
            planned = Schedule(**values)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Candidate.planned(
        candidate.architecture,
        groups.sizes,
        selection=candidate.selection,
        schedule=planned,
        recovery=candidate.recovery,
    )


def _simulates_int8(
    run: RunFolder, record: TrialRecord, asked: bool | None, there: RetrainingPlan | None
) -> bool:
    """Whether int8 is simulated: as asked, as the retraining does that is there, or by its loss."""
    if record.candidate.architecture.precision != INT8:
        if asked:
            raise UsageError(
                f"trial {record.number} is float32, and only int8 models are trained "
                "quantization-aware · pick an int8 one"
            )
        return False
    if asked is not None:
        return asked
    if there is not None and there.quantization_aware is not None:
        return there.quantization_aware
    report = read_quantization(run.model_folder(record)) if record.artifact else None
    return report is None or report.drop > MOST_LOST


def _check_free(
    folder: RetrainingFolder,
    there: RetrainingPlan | None,
    plan: RetrainingPlan,
    *,
    is_asked: bool,
) -> None:
    """Raise StoreError where the folder holds something else; `there` is what is retrained in it.

    A plan of which nothing was trained, as where the first epoch failed, may be replaced. One that
    does not say whether int8 is simulated fits, unless that `is_asked` of int8 models.
    """
    if not folder.has_begun:
        return
    if there is not None and folder.is_finished:
        finished = folder.summary().seeds  # fewer than planned, where adding some was interrupted
        there = replace(there, seeds=finished)
        if _seeds_fit(finished, plan.seeds):
            there = replace(there, seeds=plan.seeds)
    if there is not None and there.quantization_aware is None and not is_asked:
        there = replace(there, quantization_aware=plan.quantization_aware)
    if there != plan:
        what = _differences(there, plan) if there else "other files"
        raise StoreError(
            f"{folder.path} holds another retraining ({what}) · rename or remove that folder first"
        )


def _seeds_fit(there: Sequence[int], asked: Sequence[int]) -> bool:
    """Whether all that are asked for are there, or all that are there are asked for, too."""
    return set(asked) <= set(there) or set(there) <= set(asked)


def _differences(there: RetrainingPlan, plan: RetrainingPlan) -> str:
    what = f"epochs {there.epochs:g}, seeds {list(there.seeds)}"
    what += ", another recipe" if there.candidate != plan.candidate else ""
    if there.find_lr != plan.find_lr:
        what += ", with a rate that was looked for" if there.find_lr else ", a given rate"
    if there.quantization_aware != plan.quantization_aware:
        what += f", {_AWARE[there.quantization_aware]}"
    return what
