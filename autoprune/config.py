"""The run's configuration: YAML to checked values and back, errors with the key's path.

Every mistake is one ConfigError line: place, rule, actual value, remedy. Relative paths are meant
from the configuration's own folder and are absolute once it is loaded, so that the resolved copy
in the run folder means the same from everywhere.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
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
    field_serializer,
)

from autoprune.budget import Budget, size_in_bytes
from autoprune.cost_fields import DEVICE_NAME, by_device, on_device
from autoprune.errors import BudgetError, ConfigError
from autoprune.limited_yaml import parse_yaml, read_yaml
from autoprune.printable import shown
from autoprune.space import SearchSpace


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


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_whole), Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(_plain_text)]
_Trials = _at_most(1e6, "records are read as a whole")
_Epochs = _at_most(1e5, "recovery is a short training")
_Minutes = _at_most(525_600, "a year")
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


class SearchConfig(_Section):
    """How the search goes; it stops at `trials`, `total_epochs` or `minutes`, what comes first.

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
    epochs: Annotated[Positive, _Epochs] = 2.0
    rungs: Annotated[Natural, _Rungs] = 2
    concurrent: Annotated[Count, _Processes] = 2
    seed: Annotated[Natural, _Seed] = 0
    calibration_samples: Annotated[Count, _Samples] = 1024
    screen: Annotated[Natural, _Screened] = 32
    trial_timeout: Annotated[Positive, _Timeout] | None = None
    equal_failures: Natural = 5
    keep: Literal["front", "all"] = "front"
    max_disk: str | None = None
    ray: RayConfig = RayConfig()


class RunConfig(_Section):
    """One search, completely described. Read it with `load` or `from_dict`.

    `budget`, `levels` and `space` are parsed once, when the configuration is read; `to_dict` writes
    them as they were written. `base` is the folder in which modules and checkpoints of the task are
    looked up too: that of the configuration.

    >>> config = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
    >>> config.search.trials, str(config.budget)
    (30, 'macs <= 0.5 x dense')
    """

    task: Text
    task_args: dict[str, Any] = {}
    data: Text | None = None
    budget: InstanceOf[Budget]
    device: DeviceConfig = DeviceConfig()
    devices: dict[str, DeviceConfig] = {}
    train_on: Literal["cpu", "cuda", "auto"] = "auto"
    space: InstanceOf[SearchSpace]
    search: SearchConfig = SearchConfig()
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
            _set(data, override)
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

        What a run holds is `resolved`: profiles of its devices need not be where they were.
        Raises ConfigError, or BudgetError for a limit that cannot be read.
        """
        folder = (base or Path.cwd()).resolve()
        space = resolve_space(data.get("space"), folder, place)
        values = {**data, "space": SearchSpace.parse(space, f"{place}: space")}
        _check_device_names(data, place)
        values |= {} if resolved else _resolved_devices(data, folder, place)
        limits = _limits_by_name(data, place)
        if limits is not None:
            values["budget"] = Budget.parse(limits, f"{place}: budget")
        try:
            config = RunConfig.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_one_line(error, place)) from error
        config = config.model_copy(
            update={
                "task": _anchored_task(config.task, folder),
                "data": _anchored(config.data, folder),
                "search": _with_objectives_named(config, place),
                "output": _anchored(config.output, folder),
                "base": _anchored(config.base, folder) or str(folder),
            }
        )
        config._written = {"budget": limits, "space": space}
        if config.search.max_disk is not None:
            size_in_bytes(config.search.max_disk, f"{place}: search.max_disk")
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

    @field_serializer("budget", "space")
    def _as_written(self, _: object, info: FieldSerializationInfo) -> Any:
        return self._written[info.field_name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the YAML's shape; `from_dict` reads an equal configuration back."""
        return self.model_dump(mode="json", exclude={"device" if self.devices else "devices"})

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, keys in the documented order."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def presets() -> dict[str, Path]:
    """The named search spaces that come with autoprune: name -> file."""
    here = Path(__file__).resolve().parent
    folders = (here / "search_spaces", here.parent / "search_spaces")  # installed, then a checkout
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def resolve_space(space: object, base: Path, place: str = "config") -> dict[str, Any]:
    """The mapping that a preset's name, a path or an inline mapping stands for.

    Raises ConfigError that lists the presets.
    """
    if isinstance(space, Mapping):
        return dict(space)
    name = "standard" if space is None else space
    known = presets()
    if isinstance(name, str) and name in known:
        file = known[name]
    elif isinstance(name, str) and name.endswith((".yaml", ".yml")):
        file = Path(_anchored(name, base) or name)
    else:
        raise ConfigError(
            f"{place}: space must be a preset, a .yaml file or a mapping, got {shown(name)} · "
            f"presets: {', '.join(known)}"
        )
    if not file.is_file():
        raise ConfigError(f"{place}: space {file} is not a file · presets: {', '.join(known)}")
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file.name} must hold a search space's keys, got {shown(content)}")
    return content


def resolve_device(
    device: object, base: Path, place: str = "config", key: str = "device"
) -> object:
    """A device's section with what its profile says.

    A path alone is a profile, an address (`ssh://user@host`) alone a runtime.

    Raises ConfigError where the file is missing or no profile, or the section contradicts it.
    """
    section = device
    if isinstance(device, str):
        section = {"runtime" if "://" in device else "profile": device}
    if not isinstance(section, Mapping) or not isinstance(section.get("profile"), str):
        return section
    file = Path(_anchored(section["profile"], base) or "")
    remedy = f"make it: autoprune profile TASK --runtime onnxruntime -o {file.name}"
    if not file.is_file():
        raise ConfigError(f"{place}: {key}.profile {file} is not a file · {remedy}")
    try:
        there = json.loads(file.read_text(encoding="utf-8"))["device"]
        known = {key: there[key] for key in ("runtime", "threads", "batch")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{place}: {key}.profile {file} is damaged · {remedy}") from None
    for name, value in known.items():
        if section.get(name, value) != value:
            raise ConfigError(
                f"{place}: {key}.{name} is {shown(section[name])}, but the profile was made with "
                f"{shown(value)} · remove the key, or make another profile"
            )
    return {**section, **known, "profile": str(file)}


def _check_device_names(data: Mapping[str, Any], place: str) -> None:
    devices = data.get("devices")
    for name in devices if isinstance(devices, Mapping) else ():
        if not isinstance(name, str) or not DEVICE_NAME.fullmatch(name):
            raise ConfigError(
                f"{place}: a device's name may hold letters, digits, _ and -, got {shown(name)}"
            )


def _resolved_devices(data: Mapping[str, Any], base: Path, place: str) -> dict[str, Any]:
    """Section `device` or `devices`, of which one may be given, as `resolve_device` returns it."""
    if "device" in data and "devices" in data:
        raise ConfigError(
            f"{place}: device and devices exclude each other · name the device in devices, too"
        )
    if "device" in data:
        return {"device": resolve_device(data["device"], base, place)}
    if "devices" not in data:
        return {}
    devices = data["devices"]
    if not isinstance(devices, Mapping) or not devices:
        raise ConfigError(
            f"{place}: devices must map a name to each device, got {shown(devices)} · e.g. "
            "devices: {phone: phone.json, server: {runtime: torch}}"
        )
    return {
        "devices": {
            name: resolve_device(device, base, place, f"devices.{name}")
            for name, device in devices.items()
        }
    }


def _limits_by_name(data: Mapping[str, Any], place: str) -> dict[str, Any] | None:
    """The budget by flat names, each latency with its device; None where no budget is given."""
    if "budget" not in data:
        return None
    written = data["budget"]
    if not isinstance(written, Mapping) or not all(isinstance(key, str) for key in written):
        raise ConfigError(f"{place}: budget must map costs to limits, got {shown(written)}")
    devices = data.get("devices")
    names = list(devices) if isinstance(devices, Mapping) else []
    limits: dict[str, Any] = {}
    for field, value in by_device(written, f"{place}: budget").items():
        name = on_device(field, names, f"{place}: budget")
        if name in limits:
            raise BudgetError(f"{place}: budget.{name} is a duplicate key · leave one of them out")
        limits[name] = value
    return limits


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


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, or all of them when none is alike."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"nearest: {close[0]}" if close else f"known: {', '.join(names)}"


def _set(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override} must have the form key=value, e.g. search.trials=5")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {override}: {parent} is {shown(inner)}, which has no keys inside"
            )
        data = inner
    data[last] = parse_yaml(text, f"--set {shown(override)[1:-1]}")


def _anchored(path: str | None, base: Path) -> str | None:
    return None if path is None else str(base / Path(path).expanduser())


def _anchored_task(task: str, base: Path) -> str:
    """`file.py:Class` with the file made absolute; any other reference as it is."""
    file, colon, name = task.rpartition(":")
    return f"{_anchored(file, base)}:{name}" if colon and file.endswith(".py") else task


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
    if path[:1] == ["devices"]:
        return list(DeviceConfig.model_fields)
    model: type[BaseModel] = RunConfig
    for part in path:
        inner = model.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
