"""Whether several dense models can be searched together, found before the first of them is."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune._search.preparing.checks import untrained_graph
from autoprune._search.trials.sendable import check_sendable
from autoprune.config import RunConfig
from autoprune.errors import AutopruneError, ConfigError, GraphError, TaskError
from autoprune.pruning.restrictions import restricted_by
from autoprune.tasks.base import Task


def check_starting_models(tasks: Mapping[str, Task], config: RunConfig) -> None:
    """Raise a UsageError where a model cannot be pruned, or their fronts not be compared.

    TaskError for other metrics, GraphError without prunable groups, ConfigError for `keep` and
    `bounds` that do not fit one of the models, and for the profile of a device: it is of one model.
    """
    for device in config.targets.values():
        if device.profile is not None:
            raise ConfigError(
                f"device.profile: {device.profile} is of one model · name the runtime instead, or "
                "search each of the starting_models by itself"
            )
    first, *_ = tasks.items()
    for name, task in tasks.items():
        _check_metric(first, name, task)
        check_sendable(task)
        try:
            _check_model(task, config)
        except AutopruneError as error:
            raise type(error)(f"starting_models.{name}: {error}") from error


def _check_metric(first: tuple[str, Task], name: str, task: Task) -> None:
    wanted, found = ((each.metric, each.direction) for each in (first[1], task))
    if wanted != found:
        raise TaskError(
            f"starting_models.{name} has the metric {' '.join(found)}, {first[0]} has "
            f"{' '.join(wanted)}: they must have one"
        )


def _check_model(task: Task, config: RunConfig) -> None:
    graph = untrained_graph(task)
    if not graph.groups:
        raise GraphError("it has no prunable groups")
    restricted_by(config, graph, config.space)
