"""A retraining of a run's trial, from its record to the summary in the run's folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from autoprune._retraining.planning import Asked, planned, with_recovery
from autoprune._retraining.rates import OnRate, find_rate
from autoprune._retraining.seeds import (
    OnEntry,
    Retraining,
    SeedResult,
    need_test_split,
    retrain,
)
from autoprune._search.measuring.target_devices import (
    FinishedModel,
    TargetDevice,
    measurable_targets,
    measured,
    reach,
)
from autoprune.architecture import INT8
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.cards.card import CARD
from autoprune.cards.retrained import card_of_retraining
from autoprune.config import RunConfig
from autoprune.errors import DeviceError, TrainingError
from autoprune.graph import PruningGraph
from autoprune.loading import load_with_task
from autoprune.pruning.build import KeptIndices
from autoprune.pruning.compensate import Calibration, calibrate
from autoprune.pruning.verification import traced
from autoprune.quantization import Twin, compared, saved, twin_of
from autoprune.record import TrialRecord
from autoprune.store import (
    INT8_FILE,
    FoundRate,
    QuantizationSettings,
    Recipe,
    RetrainingFolder,
    RetrainingPlan,
    RetrainingSummary,
    RunFolder,
    read_quantization,
    recipe_of,
    save_model,
    with_file_bytes,
    write_text,
)
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense
from autoprune.tasks.metrics import evaluated
from autoprune.tasks.on_batches import loss_of
from autoprune.training import (
    Answers,
    Precision,
    RecoveryRun,
    training_device,
    training_precision,
)
from autoprune.training.batches import sample
from autoprune.training.optimizers import optimizer_for

_LOG = logging.getLogger(__name__)
SIMULATED = 0.2  # of the steps, the last ones, where int8 costs too much quality
_SETTINGS = QuantizationSettings()


def retrain_trial(
    run: RunFolder,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    *,
    epochs: float,
    seeds: Sequence[int],
    recovery: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    find_lr: bool = False,
    quantization_aware: bool | None = None,
    on_entry: OnEntry | None = None,
    on_rate: OnRate | None = None,
) -> RetrainingFolder:
    """Retrain one record of a run and write everything; returns the folder.

    `recovery` replaces fields of the candidate's `Recovery`, `schedule` its schedule (keys that are
    missing are the trial's; for one that pruned at once: cubic, 4 steps, 0 to 0.5). With another
    optimizer, rate and weight decay are that one's own unless they are given. Without a
    learning rate SGD's grows with the length of the training (`rate_for_length`), and with
    `find_lr` the best one around that is looked for (`find_rate`), judged in its precision.
    An int8 candidate is quantized after training; where its trial lost more than 1 % of the metric
    by that (or as `quantization_aware` says), the last fifth of the steps simulates int8.

    A folder that holds this retraining is resumed: nothing is done where its seeds are finished,
    and further ones are added to them. One that holds another raises StoreError. DeviceError where
    the device cannot be asked, before the training or when it is to measure. `config` says where to
    train and what to measure.
    """
    asked = Asked(epochs, tuple(seeds), recovery or {}, schedule or {}, find_lr, quantization_aware)
    record, plan = planned(run, config, task, record, asked)
    folder = run.retraining(record.number)
    before = folder.summary() if folder.is_finished else None
    if before is not None and set(plan.seeds) <= set(before.seeds):
        return folder
    targets = measurable_targets(config.targets, run.devices(config.targets))
    reach(targets)  # before hours of training
    need_test_split(task)
    with run.writing():
        folder.save_plan(plan)
        ready = _prepare(config, task, record)
        found = None
        if find_lr:
            found = _found_rate(folder, ready, record.candidate, plan, on_rate)
        if found is not None:
            record = replace(record, candidate=with_recovery(record.candidate, {"lr": found.lr}))
        finished = _finished(folder, before, task) if before is not None else []
        done = _train(folder, ready, record.candidate, plan, on_entry, finished)
        _save_models(folder, done, config, task, record, {one.seed for one in finished})
        precision = record.candidate.architecture.precision
        small = FinishedModel(done.runs[0].model, precision)
        dense = FinishedModel(ready.dense.to("cpu").eval())
        beside, cost = _measure(task, [dense, small], targets)
        if record.predicted is not None and record.predicted.file_bytes is not None:
            cost = with_file_bytes(cost, folder.seed_folder(done.runs[0].seed))
        summary = done.summary(record.number, measured=cost, dense_measured=beside)
        summary = replace(summary, found_rate=found)
        write_text(folder.path / CARD, card_of_retraining(run, record, plan, summary))
        folder.save_summary(summary)
    return folder


def _save_models(
    folder: RetrainingFolder,
    done: Retraining,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    saved_seeds: Collection[int],
) -> None:
    for one in done.runs:
        if one.seed in saved_seeds:
            continue
        place = folder.seed_folder(one.seed)
        save_model(place, one.model, _recipe(record, one.kept_indices, config, task))
        if record.candidate.architecture.precision == INT8:
            twin = _twin(task, one.model)
            saved(twin, compared(twin, task, _SETTINGS), place / INT8_FILE, place)


def _recipe(
    record: TrialRecord, kept_indices: KeptIndices, config: RunConfig, task: Task
) -> Recipe:
    return recipe_of(
        record.candidate,
        kept_indices,
        task=config.task,
        task_args=config.task_args,
        example=task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )


def _twin(task: Task, model: nn.Module) -> Twin:
    return twin_of(model, task, _SETTINGS, threads=1)


def _in_int8(task: Task, model: nn.Module) -> nn.Module:
    return _twin(task, model).int8


@dataclass(frozen=True, eq=False)
class _Ready:
    """What every training of one candidate needs; `dense` is on `device`."""

    task: Task
    dense: nn.Module
    graph: PruningGraph
    calibration: Calibration | None
    device: str
    precision: Precision


def _prepare(config: RunConfig, task: Task, record: TrialRecord) -> _Ready:
    device = training_device(config.train_on)
    dense = load_dense(task, device=device)
    graph = traced(
        dense.to("cpu"),
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )
    return _Ready(
        task,
        dense.to(device),
        graph,
        _calibration(config, task, record, dense),
        device,
        training_precision(config.arithmetic, task, dense, device),
    )


def _found_rate(
    folder: RetrainingFolder,
    ready: _Ready,
    candidate: Candidate,
    plan: RetrainingPlan,
    on_rate: OnRate | None,
) -> FoundRate:
    """The rate that an interrupted retraining has found, or else the one that is found now.

    Trainings are judged as they are trained and tested in full length: simulating int8, converted.
    """
    known = folder.found_rate()
    if known is not None:
        return known
    answers = Answers()  # all rates see the same batches
    task, sign = ready.task, 1.0 if ready.task.direction == "maximize" else -1.0

    def score(candidate: Candidate, epochs: float) -> float:
        short = RecoveryRun(
            task,
            ready.dense,
            ready.graph,
            candidate,
            epochs=epochs,
            seed=plan.seeds[0],
            calibration=ready.calibration,
            device=ready.device,
            precision=ready.precision,
            quantization_aware=SIMULATED if plan.quantization_aware else 0.0,
            answers=answers,
        )
        metrics = short.advance(epochs)
        if candidate.architecture.precision == INT8:
            metrics = evaluated(task, _in_int8(task, short.result()), "val")
        found = metrics[task.metric]
        if not math.isfinite(found):
            raise TrainingError(f"{task.metric} of the int8 model must be finite, got {found}")
        return sign * found

    auto = optimizer_for(task, ready.dense, ready.graph)
    resolved = replace(candidate, recovery=candidate.recovery.resolved(auto))
    found = find_rate(resolved, plan.epochs, score, on_rate)
    folder.save_found_rate(found)
    return found


def _train(
    folder: RetrainingFolder,
    ready: _Ready,
    candidate: Candidate,
    plan: RetrainingPlan,
    on_entry: OnEntry | None,
    finished: Sequence[SeedResult],
) -> Retraining:
    return retrain(
        ready.task,
        ready.dense,
        ready.graph,
        candidate,
        epochs=plan.epochs,
        seeds=plan.seeds,
        calibration=ready.calibration,
        device=ready.device,
        precision=ready.precision,
        checkpoints=folder.checkpoints,
        on_entry=on_entry,
        quantization_aware=SIMULATED if plan.quantization_aware else 0.0,
        convert=partial(_in_int8, ready.task) if candidate.architecture.precision == INT8 else None,
        finished=finished,
    )


def _finished(folder: RetrainingFolder, summary: RetrainingSummary, task: Task) -> list[SeedResult]:
    """The seeds of an earlier call, as they were written."""
    found = []
    for one in summary.runs:
        place = folder.seed_folder(one.seed)
        is_int8 = summary.candidate.architecture.precision == INT8
        report = read_quantization(place) if is_int8 else None
        metrics = report.int8.validation if report is not None else one.history[-1]
        found.append(
            SeedResult(
                seed=one.seed,
                model=load_with_task(place, task=task)[0],
                kept_indices={},
                test=one.test,
                validation={name: metrics[name] for name in summary.validation},
                history=one.history,
                times=one.times,
            )
        )
    return found


def _calibration(
    config: RunConfig, task: Task, record: TrialRecord, dense: nn.Module
) -> Calibration | None:
    selection = record.candidate.selection
    if not selection.needs_calibration:
        return None
    samples, seed = config.search.calibration_samples, config.search.seed
    batches = sample(task, seed, samples=samples)
    return calibrate(dense, batches, max_samples=samples, seed=seed, forward=partial(loss_of, task))


def _measure(
    task: Task, models: Sequence[FinishedModel], targets: Sequence[TargetDevice]
) -> list[Cost]:
    try:
        return measured(models, task.example_input(), targets)
    except DeviceError as error:
        raise DeviceError(
            f"{error} · the models are trained and saved: the same command measures them"
        ) from error
