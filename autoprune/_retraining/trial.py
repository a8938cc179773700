"""A retraining of a run's trial, from its record to the summary in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autoprune._retraining.seeds import OnEntry, Retraining, retrain
from autoprune._search.target_devices import TargetDevice, measurable_targets, measured, reach
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.errors import DeviceError, StoreError, UsageError
from autoprune.pruning.compensate import Calibration, calibrate
from autoprune.pruning.verification import traced
from autoprune.record import TrialRecord
from autoprune.store import (
    RetrainingFolder,
    RetrainingPlan,
    RunFolder,
    recipe_of,
    save_model,
    with_file_bytes,
)
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense
from autoprune.training import choose, training_device
from autoprune.training.batches import sample


def retrain_trial(
    run: RunFolder,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    *,
    epochs: float,
    seeds: Sequence[int],
    recovery: Mapping[str, float] | None = None,
    on_entry: OnEntry | None = None,
) -> RetrainingFolder:
    """Retrain one record of a run and write everything; returns the folder.

    `recovery` replaces fields of the candidate's `Recovery`. A folder that holds this retraining is
    resumed (nothing is done when it is finished); one that holds another raises StoreError.
    DeviceError where the device cannot be asked, before the training or when it is to measure.
    `config` says where to train and what to measure.
    """
    if not (0.0 < epochs < math.inf):
        raise UsageError(f"epochs must be above 0 and finite, got {epochs:g}")
    if recovery:
        record = replace(record, candidate=_with_recovery(record.candidate, recovery))
    folder = run.retraining(record.number)
    plan = RetrainingPlan(record.candidate.key, float(epochs), tuple(seeds))
    _check_free(folder, plan)
    if folder.is_finished:
        return folder
    targets = measurable_targets(config.targets, run.devices(config.targets))
    reach(targets)  # before hours of training
    with run.writing():
        done, dense = _train(folder, config, task, record, plan, on_entry)
        recipes = [
            recipe_of(
                record.candidate, one.kept_indices, task=config.task, task_args=config.task_args
            )
            for one in done.runs
        ]
        for one, recipe in zip(done.runs, recipes, strict=True):
            save_model(folder.seed_folder(one.seed), one.model, recipe)
        beside, small = _measure(task, [dense, done.runs[0].model], targets)
        if record.predicted is not None and record.predicted.file_bytes is not None:
            small = with_file_bytes(small, recipes[0], done.runs[0].model.state_dict())
        folder.save_summary(done.summary(record.number, measured=small, dense_measured=beside))
    return folder


def _with_recovery(candidate: Candidate, recovery: Mapping[str, Any]) -> Candidate:
    try:
        return replace(candidate, recovery=replace(candidate.recovery, **recovery))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_free(folder: RetrainingFolder, plan: RetrainingPlan) -> None:
    if not folder.path.exists():
        return
    there = folder.plan()
    if there != plan:
        what = "other files"
        if there:
            what = f"epochs {there.epochs:g}, seeds {list(there.seeds)}"
            what += ", another recipe" if there.candidate != plan.candidate else ""
        raise StoreError(
            f"{folder.path} holds another retraining ({what}) · rename or remove that folder first"
        )


def _train(
    folder: RetrainingFolder,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    plan: RetrainingPlan,
    on_entry: OnEntry | None,
) -> tuple[Retraining, nn.Module]:
    device = training_device(config.train_on)
    dense = load_dense(task, device=device)
    graph = traced(
        dense.to("cpu"),
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )
    folder.save_plan(plan)
    done = retrain(
        task,
        dense.to(device),
        graph,
        record.candidate,
        epochs=plan.epochs,
        seeds=plan.seeds,
        calibration=_calibration(config, task, record, dense),
        device=device,
        precision=choose(task, dense, device),
        checkpoints=folder.checkpoints,
        on_entry=on_entry,
    )
    return done, dense.to("cpu").eval()


def _calibration(
    config: RunConfig, task: Task, record: TrialRecord, dense: nn.Module
) -> Calibration | None:
    selection = record.candidate.selection
    if not selection.needs_calibration:
        return None
    samples, seed = config.search.calibration_samples, config.search.seed
    batches = sample(task, seed, samples=samples)
    return calibrate(dense, batches, max_samples=samples, seed=seed, forward=task.loss)


def _measure(
    task: Task, models: Sequence[nn.Module], targets: Sequence[TargetDevice]
) -> list[Cost]:
    try:
        return measured(models, task.example_input(), targets)
    except DeviceError as error:
        raise DeviceError(
            f"{error} · the models are trained and saved: the same command measures them"
        ) from error
