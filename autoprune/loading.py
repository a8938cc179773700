"""Saved models: which one is meant, and how it is built again with its weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.architecture import Architecture
from autoprune.config import RunConfig
from autoprune.cost_fields import is_cost
from autoprune.errors import StoreError, TaskError, UsageError
from autoprune.joint import JointFront
from autoprune.pareto import ParetoFront
from autoprune.pick import RECOMMENDED, word_of
from autoprune.pick import pick as pick_record
from autoprune.printable import counted, quoted
from autoprune.recommendation import Recommendation, recommend
from autoprune.record import TrialRecord
from autoprune.store import (
    Recipe,
    RetrainingFolder,
    RunFolder,
    is_model,
    model_name,
    read_model,
    read_packed,
)
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of
from autoprune.tasks.load import OBJECT, built, load_task
from autoprune.trust import check_task

if TYPE_CHECKING:
    from torch import nn

_DEEPEST = 3  # a saved model lies in retrained/<trial>/seed-<n> of a run


def front_of(run: RunFolder, records: Sequence[TrialRecord]) -> ParetoFront:
    """The front of a run. Raises StoreError where it has none yet."""
    run.check_single()
    found = run.front(records)
    if found is None:
        raise StoreError(
            f"{run.path} has no front yet · resume it with: autoprune resume {quoted(run.path)}"
        )
    return found.front


def recommended(run: RunFolder, front: ParetoFront) -> Recommendation | None:
    """The model of a run's front that its configuration recommends; None of an empty front."""
    metric = next((o.name for o in front.objectives if not is_cost(o.name)), "")
    dense = run.dense()
    return recommend(front, dense.metrics if dense else {}, run.config.recommended_within(metric))


def picked(run: RunFolder, text: str) -> tuple[RunFolder, TrialRecord]:
    """The trial of a run that `recommended`, `knee`, `trial=7`, `latency_ms<=3` ... names.

    With the run's folder, which for the joint front of several runs is one of them.
    """
    if run.config.starting_models:
        return JointFront.read(run).pick(text)
    for baseline in run.smaller():
        if text.strip() == baseline.title and baseline.artifact:
            raise UsageError(
                f"pick: {baseline.title} is a smaller dense model, not a trial of this search · "
                f"load or export its folder, {run.path / baseline.artifact}"
            )
    records = run.records()
    front = front_of(run, records)
    found = recommended(run, front) if word_of(text) == RECOMMENDED else None
    return run, pick_record(front, text, records, found.record if found else None)


def load(
    path: str | Path,
    *,
    pick: str = RECOMMENDED,
    task: Task | None = None,
    model: nn.Module | None = None,
    trust: bool = False,
) -> nn.Module:
    """A saved small model in eval mode on the CPU.

    `path` is a model's folder, its packed file, or a run's folder: then `pick` says which model,
    and its retrained version (of the first seed) is taken where there is one. The dense
    architecture is built through the task and pruned, and the weights are loaded strictly. With
    `model`, the dense architecture as an object (its weights do not matter), no task is needed and
    no code is imported. The `config` of a model that is built from it gets the new sizes, as by
    `prune_model`. `trust` as for `resume`. Raises StoreError where nothing fits `pick` or the
    weights do not fit, TaskError where the task's code may not run here.
    """
    from autoprune.pruning.pretrained import configure

    if task is not None and model is not None:
        raise UsageError("load takes a task or a model, got both")
    folder = model_folder(path, pick)
    if model is not None:
        recipe = saved(folder)[0]
        task = task_around(model, recipe, folder)
    found, task, _ = load_with_task(folder, task=task, trust=trust)
    configure(found, task.example_input())
    return found


def load_with_task(
    path: str | Path, *, pick: str = RECOMMENDED, task: Task | None = None, trust: bool = False
) -> tuple[nn.Module, Task, Path]:
    """`load`, together with the model's task and the folder that it came from."""
    folder = model_folder(path, pick)
    recipe, state = saved(folder)
    found = task or _task_of_model(folder, recipe, trust)
    architecture = recipe.candidate.architecture
    return rebuild(found, architecture, recipe.kept_indices, state, folder), found, folder


def task_around(model: nn.Module, recipe: Recipe, place: Path) -> Task:
    """A task without data: the model and what the recipe says of its inputs and prunable layers."""
    from autoprune.tasks.wrap import WrappedTask

    example = recipe.example_input()
    if example is None:
        raise StoreError(
            f"{place}: the recipe holds no example input · give the task: load(path, task=...)"
        )
    task = WrappedTask(model, (), (), None, None, None)
    task.ignored_layers, task.num_heads = recipe.ignored_layers, recipe.num_heads
    task.set_example(example)
    return task


def saved(place: Path) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """The recipe and the weights in a model's folder or packed file."""
    return read_packed(place) if place.is_file() else read_model(place)


def rebuild(
    task: Task,
    architecture: Architecture,
    kept_indices: Mapping[str, Sequence[int]],
    state: Mapping[str, torch.Tensor],
    place: str | Path,
) -> nn.Module:
    """The model of `task` with this architecture, these units and the weights `state`.

    Raises StoreError that names `place` where the weights do not fit the architecture.
    """
    from autoprune.pruning.build import build
    from autoprune.pruning.verification import traced

    with torch.random.fork_rng(devices=[]):
        model = built(task).eval()
    graph = traced(
        model,
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )
    unknown = [name for name in architecture.widths if name not in graph.sizes()]
    if unknown:
        raise StoreError(
            f"{place}: {name_of(task)} has no group {unknown[0]!r} · it was saved from "
            "another architecture"
        )
    try:
        shapes = architecture.without_patterns()  # the zeros are in `state`
        model = build(model, graph, shapes, kept_indices=kept_indices).model
    except UsageError as error:
        raise StoreError(f"{place}: {error}") from error
    try:
        model.load_state_dict(_versioned(state, model), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise StoreError(f"{place}: the weights do not fit {name_of(task)}: {first}") from error
    return model.eval()


def _versioned(
    state: Mapping[str, torch.Tensor], model: nn.Module
) -> OrderedDict[str, torch.Tensor]:
    """The state with the versions of the model's modules, which some classes ask for."""
    found = OrderedDict(state)
    found._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    return found


def model_folder(path: str | Path, pick: str = RECOMMENDED) -> Path:
    """The folder or packed file of the model that `path` (a model or a run) and `pick` mean."""
    folder = Path(path)
    if is_model(folder) or folder.is_file():
        return folder
    retrained = RetrainingFolder(folder)
    if retrained.is_finished:
        return retrained.first_model
    if not RunFolder.is_run(folder) and (begun := retrained.plan()) is not None:
        raise StoreError(
            f"{folder} holds a retraining that is not finished · to resume it, repeat its command: "
            f"autoprune retrain RUN --pick trial=N --epochs {begun.epochs:g} "
            f"--seeds {len(begun.seeds)}"
        )
    run, record = picked(RunFolder.open(folder), pick)
    return run.newest_model(record)


def model_words(folder: Path) -> str:
    """Which model of a run lies in a folder, and how long it was trained; else empty.

    Of a retrained one also the other seeds.
    """
    run = run_around(folder)
    if run is None:
        return ""
    retrained = RetrainingFolder(folder.parent)
    if (seed := retrained.seed_at(folder)) is not None:
        summary = retrained.summary()
        others = [str(each) for each in summary.seeds if each != seed]
        beside = f"; other seeds: {', '.join(others)}" if others else ""
        return f"{model_name(summary.number, seed)} ({counted(summary.epochs, 'epoch')}{beside})"
    for record in (*run.records(), *run.smaller()):
        if record.artifact and (run.path / record.artifact).resolve() == folder.resolve():
            length = counted(record.epochs, "epoch")
            return f"{record.title}, as the search trained it ({length}; retrain does so in full)"
    return ""


def task_of(config: RunConfig) -> Task:
    """The task that a configuration names. Raises TaskError where it was given as an object."""
    return _task(config.task, config.task_args, config.data, config.base)


def reference_of(task: Task) -> str:
    """What stands for a task that was given as an object: it cannot be found by name again."""
    return f"{OBJECT}{name_of(task)}"


def config_around(folder: Path) -> RunConfig | None:
    """The configuration of the run that this is, or that it lies in."""
    run = run_around(folder)
    return run.config if run else None


def run_around(folder: Path) -> RunFolder | None:
    """The run that this is, or that it lies in."""
    around = (folder.resolve(), *folder.resolve().parents[:_DEEPEST])
    run = next((each for each in around if RunFolder.is_run(each)), None)
    return RunFolder.open(run) if run else None


def _task_of_model(folder: Path, recipe: Recipe, trust: bool) -> Task:
    """The task of a saved model, with the data folder of the run that it lies in."""
    config = config_around(folder)
    check_task(recipe.task, config.base if config else None, folder, trust=trust)
    if config is None:
        return _task(recipe.task, recipe.task_args)
    return _task(recipe.task, recipe.task_args, config.data, config.base)


def _task(
    reference: str,
    args: Mapping[str, Any],
    data: str | None = None,
    base: str | None = None,
) -> Task:
    if reference.startswith(OBJECT):
        raise TaskError(
            f"this run was made with a Task object ({reference.removeprefix(OBJECT)}), which a "
            "command does not have · in Python: autoprune.export(run, task=task); likewise "
            "retrain, resume, verify, quantize, load"
        )
    return load_task(reference, base=Path(base) if base else None, data=data, args=args)
