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
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    InstanceOf,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_serializer,
    model_validator,
)

from autoprune.budget import Budget, size_in_bytes
from autoprune.cost_fields import DEVICE_NAME, on_device
from autoprune.device_sections import check_device_names, limits_by_name, resolved_devices
from autoprune.errors import BudgetError, ConfigError
from autoprune.limited_yaml import read_yaml
from autoprune.presets import resolve_space
from autoprune.printable import shown
from autoprune.quality import QualityLimit, parse_qualities, parse_quality
from autoprune.space import SearchSpace
from autoprune.yaml_file import anchored, nearest, set_key


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _whole(value: object) -> object:
    """`3.0` and `"3"` are no counts, `true` is no number: YAML's types are taken as written."""
    if isinstance(value, (bool, str)):
        raise ValueError("a number is needed")
    return value


def _at_most(limit: float, why: str) -> AfterValidator:
    """A sensible largest value: what is above it is a slip, found before hours of work."""

    def check(value: float) -> float:
        if value > limit:
            raise ValueError(f"must be at most {limit:g} ({why})")
        return value

    return AfterValidator(check)


def _plain_text(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must not be empty, nor hold a null byte")
    return value


def _starting_models(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Two or more, each by a name that a folder can have."""
    odd = [name for name in found if not DEVICE_NAME.fullmatch(name)]
    if odd:
        raise ValueError(f"a name may hold letters, digits, _ and -, not {shown(odd[0])}")
    if len(found) == 1:
        raise ValueError("must name two or more · for a single one: task_args")
    return found


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_whole)]
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_plain_text)]
MOST_TRIALS, MOST_MINUTES = 1_000_000, 525_600
_Trials = _at_most(MOST_TRIALS, "records are read as a whole")
_Epochs = _at_most(1e5, "recovery is a short training")
_Minutes = _at_most(MOST_MINUTES, "a year")
_Rungs = _at_most(20, "each is at half the epochs of the next")
_Processes = _at_most(1024, "each is a process of its own")
_Seed = _at_most(2**32 - 1, "32 bits")
_Samples = _at_most(1e7, "they are kept in memory")
_Screened = _at_most(1e5, "all are scored before each trial")
_Timeout = _at_most(604_800, "a week")
_Threads = _at_most(1024, "no processor has more")
_Batch = _at_most(65_536, "the inputs of one forward pass are kept in memory")


class DeviceConfig(_Section):
    """A place where latency counts: a runtime of `cost.targets` or an `ssh://` address.

    `profile` is a file that `autoprune profile -o` wrote, and says the other three.
    """

    profile: Text | None = None
    runtime: Text = "onnxruntime"
    threads: Annotated[Count, _Threads] = 1
    batch: Annotated[Count, _Batch] = 1


class RayConfig(_Section):
    """Where trials are trained: in a Ray session of this machine, or in a cluster.

    `address` is that of a running cluster as `ray.init` takes it (`auto`, `host:port`); by default
    what the environment variable RAY_ADDRESS says. `runtime_env` is what its workers get, such as
    `{working_dir: .}` with the task's file. `resources_per_trial` are Ray's, such as `{cpu: 4,
    gpu: 1}`. `storage` is a folder that all nodes share, or a URL, for the states of paused trials.
    """

    address: Text | None = None
    runtime_env: dict[str, Any] = {}
    resources_per_trial: dict[str, Annotated[float, BeforeValidator(_whole), Field(ge=0)]] = {}
    storage: Text | None = None


class BoundConfig(_Section):
    """The smallest and the largest ratio (pruned fraction) of some groups."""

    min_ratio: Ratio | None = None
    max_ratio: Ratio | None = None

    @model_validator(mode="after")
    def _in_order(self) -> BoundConfig:
        low, high = self.min_ratio, self.max_ratio
        if low is None and high is None:
            raise ValueError("min_ratio or max_ratio is needed")
        if low is not None and high is not None and low > high:
            raise ValueError("min_ratio must not be above max_ratio")
        return self


class BaselineConfig(_Section):
    """How many models to compare with are trained, like trials and on top of them.

    `uniform`: one ratio for all groups, at so many costs within the budget; `random`: random widths
    that use it up; `scratch`: whether the best architecture is trained from random weights, too.
    """

    uniform: Natural = 3
    random: Natural = 1
    scratch: bool = False


class SearchConfig(_Section):
    """How the search goes; it stops at `trials`, `total_epochs` or `minutes`, what comes first.

    It also stops when the hypervolume of the front has grown by less than 0.5 % over the last
    `patience` trials (0: never).

    `epochs` are the recovery epochs of one trial, `rungs` the evaluations at which poor trials are
    stopped early (0: never). `screen` are the proposals scored right after removal and repair for
    each one that is trained (0: every proposal is trained). `objectives` defaults to the task's
    metric and the first budget field. `levels` are costs below the budget's first limit, in its
    form, where good models are wanted too: the search begins with candidates just within each.
    `variables` are what the sampler draws beside schedule and recovery: a share of the budget and
    a few offsets that the allocator turns into widths and dropped blocks (`allocation`), or a ratio
    for each group (`ratios`, also where sensitivities are not measured).
    """

    sampler: Literal["tpe", "nsga2", "gp", "random"] = "tpe"
    variables: Literal["allocation", "ratios"] = "ratios"
    objectives: Annotated[list[str], Field(min_length=1)] | None = None
    levels: tuple[str | float, ...] = ()
    trials: Annotated[Count, _Trials] = 30
    total_epochs: Positive | None = None
    minutes: Annotated[Positive, _Minutes] | None = None
    patience: Natural = 25
    epochs: Annotated[Positive, _Epochs] = 2.0
    rungs: Annotated[Natural, _Rungs] = 2
    concurrent: Annotated[Count, _Processes] = 2
    seed: Annotated[Natural, _Seed] = 0
    calibration_samples: Annotated[Count, _Samples] = 1024
    screen: Annotated[Natural, _Screened] = 32
    baselines: BaselineConfig = BaselineConfig()
    trial_timeout: Annotated[Positive, _Timeout] | None = None
    equal_failures: Natural = 5
    keep_models: Literal["front", "all"] = "front"
    max_disk: str | None = None
    ray: RayConfig = RayConfig()


Arithmetic = Literal["auto", "float32", "bfloat16"]
Patterns = tuple[Annotated[str, Field(min_length=1)], ...]


class RunConfig(_Section):
    """One search, completely described. Read it with `load` or `from_dict`.

    `budget`, `levels` and `space` are parsed once, when the configuration is read; `to_dict` writes
    them as they were written. `keep` are patterns of groups and blocks that are not pruned,
    `bounds` ratios of other groups (see `pruning.restrictions`). `quality` are limits on metrics;
    the recommended model is the cheapest that is within them and, where they do not limit the
    task's metric, within `recommend`. `starting_models` are dense models to start from by name,
    each with what the task gets instead of, or on top of, `task_args`. `from_run` is a run whose
    profiles, sensitivities and trials are used again; `track` names packages that follow the
    search. `base` is the folder in which modules and checkpoints of the task are looked up too:
    that of the configuration.

    >>> config = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
    >>> config.search.trials, str(config.budget)
    (30, 'macs <= 0.5 x dense')
    """

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
    quality: dict[str, str | list[str]] = {}
    recommend: str = "drop <= 1 %"
    search: SearchConfig = SearchConfig()
    starting_models: Annotated[dict[str, dict[str, Any]], AfterValidator(_starting_models)] = {}
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
            raise ConfigError(f"{file} is not a file · write one with: autoprune init {file}")
        data = read_yaml(file)
        if not isinstance(data, dict):
            raise ConfigError(
                f"{file.name} must hold keys such as task and budget, got {shown(data)}"
            )
        for override in overrides:
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
            raise ConfigError(_one_line(error, place)) from error
        config = config.model_copy(
            update={
                "task": _anchored_task(config.task, folder),
                "data": anchored(config.data, folder),
                "search": _with_objectives_named(config, place),
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
        config._levels = config.budget.lowered(config.search.levels, f"{place}: search.levels")
        return config

    def with_task(self, task: str) -> RunConfig:
        """The same search of another task; a relative file is meant from the working directory."""
        return self.model_copy(update={"task": _anchored_task(task, Path.cwd())})

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


def _anchored_task(task: str, base: Path) -> str:
    """`file.py:Class` with the file made absolute; any other reference as it is."""
    file, colon, name = task.rpartition(":")
    return f"{anchored(file, base)}:{name}" if colon and file.endswith(".py") else task


def _one_line(error: ValidationError, place: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "function-"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{place}: {key} is not a key · {nearest(path[-1], _keys_at(path[:-1]))}"
    if first["type"] == "missing":
        return f"{place}: {key} is missing · {_MISSING.get(key, 'add it')}"
    if first["type"] in ("model_type", "model_attributes_type"):
        keys = ", ".join(_keys_at(path))
        return f"{place}: {key} must hold keys ({keys}), got {shown(first['input'])}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{place}: {key}: {message}, got {shown(first['input'])}"


_MISSING = {
    "task": "e.g. task: digits, or task: path/to/file.py:MyTask",
    "budget": "e.g. budget: {latency_ms: 50%}",
}


def _keys_at(path: Sequence[str]) -> list[str]:
    named: dict[str, type[BaseModel]] = {"devices": DeviceConfig, "bounds": BoundConfig}
    if path and path[0] in named:
        return list(named[path[0]].model_fields)
    model: type[BaseModel] = RunConfig
    for part in path:
        inner = model.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
