"""What must hold before a search is prepared: objectives, precisions, restrictions, methods."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import nn

from autoprune._search.measuring.target_devices import TargetDevice, check_int8
from autoprune._search.measuring.verify import objectives_of
from autoprune.candidate import BY_ACTIVATIONS
from autoprune.config import RunConfig
from autoprune.cost.targets import is_remote
from autoprune.cost_fields import FILE, MEMORY, cost_fields
from autoprune.errors import ConfigError, TaskError
from autoprune.graph import PruningGraph
from autoprune.pareto import Objective
from autoprune.pruning.restrictions import restricted_by
from autoprune.pruning.verification import prunable
from autoprune.schedule import MOST_STEPS, Schedule
from autoprune.space import SearchSpace
from autoprune.space.settings import Value
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of, read
from autoprune.tasks.load import built
from autoprune.tasks.metrics import evaluated

_METHODS = {  # what a task defines where a setting is `task`
    "importance": "importance",
    "recovery.penalty": "regularize",
    "schedule.kind": "removed_share",
    "patterns.score": "sparsity_score",
}


def objectives_for(config: RunConfig, task: Task) -> tuple[Objective, ...]:
    """The objectives of a search; ConfigError for one that is neither metric nor cost."""
    names = config.search.objectives or [task.metric, config.budget.fields[0]]
    costs = cost_fields(list(config.devices))
    known = [task.metric, *costs]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" · nearest: {near[0]}" if near else ""
            raise ConfigError(
                f"search.objectives: {name!r} is neither the task's metric ({task.metric}) nor a "
                f"cost ({', '.join(costs)}){hint}"
            )
    if task.metric not in names or len(set(names)) != len(names):
        raise ConfigError(
            f"search.objectives must hold the task's metric ({task.metric}) and nothing twice, "
            f"got {', '.join(names)}"
        )
    return objectives_of(names, task.metric, task.direction)


def check_precisions(
    config: RunConfig, objectives: Sequence[Objective], targets: Sequence[TargetDevice]
) -> None:
    """Raise ConfigError where a search with int8 models cannot be.

    A count of their memory says little: ONNX Runtime takes up to three times as much.
    """
    check_int8(targets)
    names = {*config.budget.fields, *(objective.name for objective in objectives)}
    away = next((it for it in targets if it.is_offline or is_remote(it.config.runtime)), None)
    if MEMORY in names and away is not None:
        place = away.device if away.is_offline else away.where
        raise ConfigError(
            f"space.precision: {MEMORY} of int8 models can be measured in ONNX Runtime on this "
            f"machine alone, not on {place} · leave it out of budget and search.objectives, "
            "or search with precision: float32"
        )
    if FILE in names and not config.space.patterns.is_dense:
        raise ConfigError(
            f"space.patterns: zeros make no int8 file smaller, and {FILE} counts · leave patterns "
            "out, or search with precision: float32"
        )


def untrained_graph(task: Task) -> PruningGraph:
    """The verified graph of the model as `build_model` makes it: groups do not depend on weights.

    Raises TaskError for what the task's code raises, GraphError where the model cannot be traced.
    """
    with torch.random.fork_rng(devices=[]):
        model = built(task).eval()
    return prunable(
        model,
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )


def check_restrictions(config: RunConfig, task: Task) -> None:
    """Raise ConfigError for a pattern of `keep` or `bounds` that matches nothing of the model.

    It takes seconds, where the training of a dense model or the profile of a device may take hours.
    """
    if config.keep or config.bounds:
        restricted_by(config, untrained_graph(task), config.space)


def metric_names(task: Task) -> list[str]:
    """What `evaluate` answers for the untrained model on one validation batch, where it reads that.

    Raises TaskError where it cannot answer, which some metrics cannot for so few samples.
    """
    first = list(islice(read(task.val_loader(), f"{name_of(task)}.val_loader"), 1))
    short = copy.copy(task)
    short.val_loader = lambda: first  # type: ignore[method-assign]
    with torch.random.fork_rng(devices=[]):
        return list(evaluated(short, built(task).eval(), "val"))


def dense_metrics(task: Task, dense: nn.Module) -> dict[str, float]:
    """The dense model's validation metrics; TaskError where they cannot be found, or not used."""
    metrics = evaluated(task, dense, "val")
    value = metrics.get(task.metric)
    if value is None or not math.isfinite(value):
        raise TaskError(
            f"{name_of(task)}.evaluate must give a finite {task.metric!r} for the dense "
            f"model, got {value if value is not None else sorted(metrics)} on val"
        )
    return metrics


def check_methods(space: SearchSpace, task: Task) -> None:
    """Raise TaskError where a method of the task is asked for and it defines none.

    Also where its schedule's curve does not rise to 1.
    """
    asked = {setting: values_of(space, setting) for setting in _METHODS}
    asked["patterns.score"] = (space.patterns.score,)
    for setting, method in _METHODS.items():
        found = getattr(getattr(task, method), "__func__", None)  # None: a function that it holds
        if "task" in asked[setting] and found is getattr(Task, method):
            raise TaskError(
                f"{setting} 'task' needs {name_of(task)}.{method}, which is not defined "
                "· define it, or use another one"
            )
    if "task" in asked["schedule.kind"]:
        check_curve(task)


def check_curve(task: Task) -> None:
    """Raise TaskError where a task's `removed_share` is no curve of a schedule."""
    try:
        Schedule.of_curve(task.removed_share, 0.0, 0.0, MOST_STEPS)
    except ValueError as error:
        raise TaskError(f"{name_of(task)}.removed_share: {error}") from None


def values_of(space: SearchSpace, name: str) -> tuple[Value, ...]:
    """What a setting may be."""
    varied = {parameter.name: parameter.choices for parameter in space.varied}
    return varied.get(name, (space.fixed[name],) if name in space.fixed else ())


def needs_calibration(space: SearchSpace) -> bool:
    """Whether a candidate may be repaired, or ordered by the activations of its layers."""
    repairs, importances = values_of(space, "repair"), values_of(space, "importance")
    return True in repairs or not BY_ACTIVATIONS.isdisjoint(map(str, importances))


def check_variables(config: RunConfig) -> None:
    """Raise ConfigError where the allocator would have no sensitivities to work with."""
    space = config.space
    if config.search.variables != "allocation":
        return
    if space.per == "group" and needs_calibration(space):
        return
    raise ConfigError(
        "search.variables: allocation needs the sensitivity of each group, which is measured with "
        "a ratio for each group, and repair or importance obs · set space.ratios.per: group and "
        "space.repair: true, or search.variables: ratios"
    )
