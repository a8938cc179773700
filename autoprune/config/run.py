"""The run's configuration: YAML to checked values and back, errors with the key's path.

Every mistake is one ConfigError line: place, rule, actual value, remedy. Relative paths are meant
from the configuration's own folder and are absolute once it is loaded, so that the resolved copy
in the run folder means the same from everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    FieldSerializationInfo,
    InstanceOf,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_serializer,
)

from autoprune.budget import Budget, size_in_bytes
from autoprune.config.devices import check_device_names, limits_by_name, resolved_devices
from autoprune.config.limited_yaml import read_yaml
from autoprune.config.messages import one_line
from autoprune.config.presets import resolve_space
from autoprune.config.sections import (
    Arithmetic,
    BoundConfig,
    DeviceConfig,
    Patterns,
    SearchConfig,
    Section,
    StartingModels,
    Text,
)
from autoprune.config.yaml_file import anchored, set_key
from autoprune.cost_fields import on_device
from autoprune.errors import BudgetError, ConfigError
from autoprune.printable import quoted, shown
from autoprune.quality import PATTERN, QualityLimit, parse_qualities, parse_quality
from autoprune.space import SearchSpace

_LIMIT: dict[str, Any] = {"type": "string", "pattern": PATTERN}
_LIMITS: dict[str, Any] = {"anyOf": [_LIMIT, {"type": "array", "items": _LIMIT}]}


class RunConfig(BaseModel):
    """One search, completely described. Read it with `load` or `from_dict`.

    `budget`, `levels` and `space` are parsed once, when the configuration is read; `to_dict` writes
    them as they were written. `keep` are patterns of groups and blocks that are not pruned,
    `bounds` ratios of other groups (see `pruning.restrictions`). `quality` are limits on metrics;
    the recommended model is the cheapest that is within them and, where they do not limit the
    task's metric, within `recommend`. `starting_models` are dense models to start from by name,
    each with a task of its own, or with what the task gets on top of `task_args`. `from_run` is a
    run whose profiles, sensitivities and trials are used again; `track` names packages that follow
    the search. `base` is the folder in which modules and checkpoints of the task are looked up too:
    that of the configuration.

    >>> config = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
    >>> config.search.trials, str(config.budget)
    (30, 'macs <= 0.5 x dense')
    """

    model_config = Section.model_config

    task: Text
    task_args: dict[str, Any] = {}
    data: Text | None = None
    budget: Annotated[InstanceOf[Budget], WithJsonSchema({"type": "object"})]
    device: DeviceConfig = DeviceConfig()
    devices: dict[str, DeviceConfig] = {}
    train_on: Literal["cpu", "cuda", "auto"] = "auto"
    arithmetic: Arithmetic = "auto"
    space: Annotated[InstanceOf[SearchSpace], WithJsonSchema({})]
    keep: Patterns = ()
    bounds: dict[str, BoundConfig] = {}
    quality: dict[str, Annotated[Any, WithJsonSchema(_LIMITS)]] = {}  # checked by its parser
    recommend: Annotated[str, WithJsonSchema(_LIMIT)] = "drop <= 1 %"
    search: SearchConfig = SearchConfig()
    starting_models: StartingModels = {}
    from_run: Text | None = None
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    output: Text | None = None
    base: Text | None = None
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)
    _levels: tuple[Budget, ...] = PrivateAttr(default=())

    @staticmethod
    def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a YAML file; `overrides` such as `search.trials=5` replace what it says.

        Raises ConfigError, one line that begins with the file's name.
        """
        file = Path(path)
        if not file.is_file():
            raise ConfigError(
                f"{file} is not a file · write one with: autoprune init {quoted(file)}"
            )
        data = read_yaml(file)
        if not isinstance(data, dict):
            raise ConfigError(
                f"{file.name} must hold keys such as task and budget, got {shown(data)}"
            )
        for override in overrides:
            if override.strip().startswith("space."):  # a key of a preset, or of another file
                data["space"] = resolve_space(data.get("space"), file.parent, file.name)
            set_key(data, override)
        return RunConfig.from_dict(data, place=file.name, base=file.parent)

    @staticmethod
    def from_dict(
        data: Mapping[str, Any],
        *,
        place: str = "config",
        base: Path | None = None,
        resolved: bool = False,
    ) -> RunConfig:
        """Check a mapping of the YAML's shape; `place` begins every error, `base` anchors paths.

        What a run holds is `resolved`: profiles of its devices, and its `base`, need not be where
        they were.
        Raises ConfigError, or BudgetError for a limit that cannot be read.
        """
        folder = (base or Path.cwd()).resolve()
        space = resolve_space(data.get("space"), folder, place)
        values = {**data, "space": SearchSpace.parse(space, f"{place}: space")}
        check_device_names(data, place)
        values |= {} if resolved else resolved_devices(data, folder, place)
        limits = limits_by_name(data, place)
        if limits is not None:
            values["budget"] = Budget.parse(limits, f"{place}: budget")
        try:
            config = RunConfig.model_validate(values)
        except ValidationError as error:
            raise ConfigError(one_line(error, place, RunConfig, _NAMED)) from error
        batches = {name: device.batch for name, device in config.targets.items()}
        config = config.model_copy(
            update={
                "budget": Budget.parse(limits or {}, f"{place}: budget", batches),
                "task": _anchored_task(config.task, folder),
                "starting_models": _anchored_models(config.starting_models, folder),
                "data": anchored(config.data, folder),
                "search": _with_smaller(_with_objectives_named(config, place), folder),
                "output": anchored(config.output, folder),
                "from_run": anchored(config.from_run, folder),
                "base": anchored(config.base, folder) or str(folder),
            }
        )
        if not (resolved or Path(config.base or folder).is_dir()):
            raise ConfigError(
                f"{place}: base must be a folder, {config.base} is none · leave it out for the "
                "folder of the configuration"
            )
        if config.starting_models and config.from_run:
            raise ConfigError(
                f"{place}: from_run and starting_models exclude each other · an earlier run has "
                "one dense model"
            )
        config._written = {"budget": limits, "space": space}
        if config.search.max_disk is not None:
            size_in_bytes(config.search.max_disk, f"{place}: search.max_disk")
        parse_qualities(config.quality, f"{place}: quality")
        parse_quality("metric", config.recommend, f"{place}: recommend")
        config._levels = config.budget.lowered(
            config.search.levels, f"{place}: search.levels", batches
        )
        return config

    def with_task(self, task: str) -> RunConfig:
        """The same search of another task; a relative file is meant from the working directory."""
        return self.model_copy(update={"task": _anchored_task(task, Path.cwd())})

    def starting_from(self, name: str) -> RunConfig:
        """The search of one of the starting models.

        >>> starts = {"large": {"depth": 56}, "small": "mine:Small"}
        >>> data = {"task": "mine:Large", "budget": {"macs": "50%"}, "starting_models": starts}
        >>> config = RunConfig.from_dict(data)
        >>> config.starting_from("large").task_args, config.starting_from("small").task
        ({'depth': 56}, 'mine:Small')
        """
        return self._of_model(self.starting_models[name])

    def smaller_model(self, name: str) -> RunConfig:
        """The same with the task of a smaller dense model of `search.baselines`."""
        return self._of_model(self.search.baselines.smaller[name])

    def _of_model(self, what: str | dict[str, Any]) -> RunConfig:
        args = {**self.task_args, **({} if isinstance(what, str) else what)}
        task = what if isinstance(what, str) else self.task
        return self.model_copy(update={"task": task, "task_args": args, "starting_models": {}})

    @property
    def targets(self) -> dict[str, DeviceConfig]:
        """Where latencies count, by name; the only device, where it has no name, under `""`."""
        return self.devices or {"": self.device}

    @property
    def max_disk_bytes(self) -> float | None:
        """`search.max_disk` in bytes."""
        return None if self.search.max_disk is None else size_in_bytes(self.search.max_disk)

    @property
    def levels(self) -> tuple[Budget, ...]:
        """The budget with its first limit lowered to each of `search.levels`."""
        return self._levels

    @property
    def quality_limits(self) -> tuple[QualityLimit, ...]:
        """The limits on metrics."""
        return parse_qualities(self.quality)

    def recommended_within(self, metric: str) -> tuple[QualityLimit, ...]:
        """The limits that a recommended model must meet: `quality`, or `recommend` of the metric.

        >>> config = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
        >>> [str(limit) for limit in config.recommended_within("accuracy")]
        ['accuracy at most 1 % worse than dense']
        """
        limits = self.quality_limits
        if any(limit.metric == metric for limit in limits):
            return limits
        return (*limits, parse_quality(metric, self.recommend, "recommend"))

    @field_serializer("budget", "space")
    def _as_written(self, _: object, info: FieldSerializationInfo) -> Any:
        return self._written[info.field_name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the YAML's shape; `from_dict` reads an equal configuration back."""
        return self.model_dump(mode="json", exclude={"device" if self.devices else "devices"})

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, keys in the documented order."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def _with_objectives_named(config: RunConfig, place: str) -> SearchConfig:
    """The section `search` with the device in the name of each objective that is a latency."""
    objectives, names = config.search.objectives, list(config.devices)
    if objectives is None:
        return config.search
    try:
        named = [on_device(each, names, f"{place}: search.objectives") for each in objectives]
    except BudgetError as error:
        raise ConfigError(str(error)) from None
    return config.search.model_copy(update={"objectives": named})


def _with_smaller(search: SearchConfig, base: Path) -> SearchConfig:
    """The section `search` with absolute files of the tasks of smaller dense models."""
    smaller = _anchored_models(search.baselines.smaller, base)
    baselines = search.baselines.model_copy(update={"smaller": smaller})
    return search.model_copy(update={"baselines": baselines})


def _anchored_models(models: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The same with the files of tasks made absolute."""
    return {
        name: _anchored_task(what, base) if isinstance(what, str) else what
        for name, what in models.items()
    }


def _anchored_task(task: str, base: Path) -> str:
    """`file.py:Class` with the file made absolute; any other reference as it is."""
    file, colon, name = task.rpartition(":")
    return f"{anchored(file, base)}:{name}" if colon and file.endswith(".py") else task


_NAMED: dict[str, type[BaseModel]] = {"devices": DeviceConfig, "bounds": BoundConfig}
"""What mappings hold under names of the user's."""
