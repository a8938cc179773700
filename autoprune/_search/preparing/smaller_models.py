"""Smaller dense models to compare with: made and checked before the first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.budget import Cost
from autoprune.config import RunConfig
from autoprune.cost.file_size import FileSize
from autoprune.cost.inputs import as_call, tensors
from autoprune.cost.model import CostModel
from autoprune.cost_fields import FILE
from autoprune.errors import AutopruneError, TaskError
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import traced
from autoprune.tasks.base import Task
from autoprune.tasks.load import OBJECT, load_dense, load_task
from autoprune.tasks.loaders import split_size
from autoprune.tasks.metrics import evaluated


@dataclass(frozen=True, eq=False)
class SmallerModel:
    """A smaller dense model with its task, which `config` names, on the CPU in eval mode.

    `cost` is counted; its latency is not predicted, since predictors are of the search's model.
    """

    name: str
    config: RunConfig
    task: Task
    model: nn.Module
    graph: PruningGraph
    cost: Cost


def smaller_models(
    config: RunConfig, task: Task, dense: nn.Module, metrics: Mapping[str, float], device: str
) -> tuple[SmallerModel, ...]:
    """The models of `search.baselines.smaller`, with their trained weights.

    `dense` and `metrics` are those of the search. Raises TaskError or GraphError, which name the
    model, where one cannot be made, or not be compared with the search's: with other metrics,
    inputs, outputs or validation samples.
    """
    found = []
    for name in config.search.baselines.smaller:
        try:
            found.append(_made(name, config, task, dense, metrics, device))
        except AutopruneError as error:
            raise type(error)(f"search.baselines.smaller.{name}: {error}") from error
    return tuple(found)


def _made(
    name: str,
    config: RunConfig,
    task: Task,
    dense: nn.Module,
    metrics: Mapping[str, float],
    device: str,
) -> SmallerModel:
    own = config.smaller_model(name)
    smaller = _task(own)
    example = smaller.example_input()
    _check("metric is", _metric(smaller), _metric(task))
    _check("inputs are", _shapes(example), _shapes(task.example_input()))
    samples = (split_size(each.val_loader()) for each in (smaller, task))
    _check("validation samples are", *samples)
    model = load_dense(smaller, device=device)
    _check("metrics are", *(", ".join(it) for it in (evaluated(smaller, model, "val"), metrics)))
    model = model.to("cpu").eval()
    _check("outputs are", _outputs(model, example), _outputs(dense, example))
    graph = traced(
        model,
        example,
        ignored_layers=smaller.ignored_layers,
        num_heads=smaller.num_heads,
    )
    has_file = FILE in (*config.budget.fields, *(config.search.objectives or ()))
    file = FileSize.of(model.state_dict(), graph, own.task) if has_file else None
    return SmallerModel(name, own, smaller, model, graph, CostModel(graph, file=file).dense)


def _task(config: RunConfig) -> Task:
    if config.task.startswith(OBJECT):
        raise TaskError(
            "the search was given a Task object, which gets no arguments · name a task: "
            "path/to/file.py:MyTask"
        )
    base = Path(config.base) if config.base else None
    return load_task(config.task, base=base, data=config.data, args=config.task_args)


def _check(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise TaskError(f"its {what} {found}, and the search's task has {wanted}")


def _metric(task: Task) -> str:
    return f"{task.metric} ({task.direction})"


def _shapes(values: Any) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors(values)]


def _outputs(model: nn.Module, example: Any) -> list[list[int]]:
    args, keywords = as_call(example)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return _shapes(model(*args, **keywords))
