"""A retraining on disk: `retrained/<trial>/` in a run's folder, from a record to its summary."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune._retrain import OnEntry, Retraining, retrain
from autoprune._search.sites import Site, local_sites, measured, reach
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.errors import DeviceError, StoreError, UsageError
from autoprune.pruning.compensate import Calibration, calibrate
from autoprune.pruning.verification import traced
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, recipe_of, save_model
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense
from autoprune.training import choose, training_device
from autoprune.training.batches import sample

SUMMARY, PLAN, CHECKPOINTS = "summary.json", "plan.json", "checkpoints"


def retrain_trial(
    run: RunFolder,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    *,
    epochs: float,
    seeds: Sequence[int],
    recipe: Mapping[str, float] | None = None,
    on_entry: OnEntry | None = None,
) -> Path:
    """Retrain one record of a run and write everything; returns the folder.

    `recipe` replaces fields of the candidate's `Recovery`. A folder that holds this retraining is
    gone on with (nothing is done when it is finished); one that holds another raises StoreError.
    DeviceError where the device cannot be asked, before the training or when it is to measure.
    `config` says where to train and what to measure.
    """
    if not (0.0 < epochs < math.inf):
        raise UsageError(f"epochs must be above 0 and finite, got {epochs:g}")
    if recipe:
        record = replace(record, candidate=_with_recipe(record.candidate, recipe))
    name = f"retrained/{record.number}"
    folder = run.path / name
    plan = {"candidate": record.candidate.key, "epochs": float(epochs), "seeds": list(seeds)}
    _check_free(folder, plan)
    if (folder / SUMMARY).is_file():
        return folder
    sites = local_sites(config.targets, run.profiles(config.targets))
    reach(sites)  # before hours of training
    with run.writing():
        done, dense = _train(run, config, task, record, folder, plan, on_entry)
        for one in done.runs:
            recipe = recipe_of(
                record.candidate, one.kept_indices, task=config.task, task_args=config.task_args
            )
            save_model(folder / f"seed-{one.seed}", one.model, recipe)
        beside, small = _measure(task, [dense, done.runs[0].model], sites)
        summary: dict[str, Any] = {"number": record.number, **done.summary()}
        summary["measured"] = small.to_dict()
        summary["dense"] = {**summary["dense"], "measured": beside.to_dict()}
        run.write_json(f"{name}/{SUMMARY}", summary)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return folder


def _with_recipe(candidate: Candidate, recipe: Mapping[str, Any]) -> Candidate:
    try:
        return replace(candidate, recovery=replace(candidate.recovery, **recipe))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_free(folder: Path, plan: Mapping[str, Any]) -> None:
    if not folder.exists():
        return
    file = folder / PLAN
    there = json.loads(file.read_text()) if file.is_file() else None
    if there != dict(plan):
        what = "other files"
        if there:
            what = f"epochs {there['epochs']:g}, seeds {there['seeds']}"
            what += ", another recipe" if there["candidate"] != plan["candidate"] else ""
        raise StoreError(
            f"{folder} holds another retraining ({what}) · rename or remove that folder first"
        )


def _train(
    run: RunFolder,
    config: RunConfig,
    task: Task,
    record: TrialRecord,
    folder: Path,
    plan: Mapping[str, Any],
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
    run.write_json(f"retrained/{record.number}/{PLAN}", dict(plan))
    done = retrain(
        task,
        dense.to(device),
        graph,
        record.candidate,
        epochs=plan["epochs"],
        seeds=plan["seeds"],
        calibration=_calibration(config, task, record, dense),
        device=device,
        precision=choose(task, dense, device),
        checkpoints=folder / CHECKPOINTS,
        on_entry=on_entry,
    )
    return done, dense.to("cpu").eval()


def _calibration(
    config: RunConfig, task: Task, record: TrialRecord, dense: nn.Module
) -> Calibration | None:
    selection = record.candidate.selection
    if not selection.repair and selection.importance != "obs":
        return None
    samples, seed = config.search.calibration_samples, config.search.seed
    batches = sample(task, seed, samples=samples)
    return calibrate(dense, batches, max_samples=samples, seed=seed, forward=task.loss)


def _measure(task: Task, models: Sequence[nn.Module], sites: Sequence[Site]) -> list[Cost]:
    try:
        return measured(models, task.example_input(), sites)
    except DeviceError as error:
        raise DeviceError(
            f"{error} · the models are trained and saved: the same command measures them"
        ) from error
