"""The keys of a configuration as keyword arguments of `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from autoprune.budget import Value
from autoprune.config import RunConfig
from autoprune.config.sections import SearchConfig
from autoprune.config.yaml_file import nearest
from autoprune.errors import UsageError

_DeviceSpec = str | Path | Mapping[str, Any]


class SearchOptions(TypedDict, total=False):
    """The keys of a configuration as keyword arguments; those left out have its defaults.

    `device` holds `runtime`, `threads` and `batch`: where the latency counts; or it is the file of
    a `DeviceProfile`, or an address, `ssh://user@host`. `devices` are several such by name, with
    latencies called `latency_ms@<name>`. The others are documented in `RunConfig` and, from
    `sampler` on, in `SearchConfig`.
    """

    budget: Mapping[str, Value | Mapping[str, Value]]
    space: str | Path | Mapping[str, Any]
    keep: Sequence[str]
    bounds: Mapping[str, Mapping[str, float]]
    quality: Mapping[str, str | Sequence[str]]
    recommend: str
    from_run: str | Path | None
    track: Sequence[str]
    device: _DeviceSpec
    devices: Mapping[str, _DeviceSpec]
    train_on: str
    arithmetic: str
    task_args: Mapping[str, Any]
    starting_models: Mapping[str, str | Mapping[str, Any]]
    data: str | Path | None
    output: str | Path | None
    base: str | Path | None
    sampler: str
    variables: str
    objectives: Sequence[str] | None
    levels: Sequence[Value]
    trials: int
    total_epochs: float | None
    minutes: float | None
    patience: int
    epochs: float
    rungs: int
    concurrent: int
    seed: int
    calibration_samples: int
    screen: int
    baselines: Mapping[str, Any]
    trial_timeout: float | None
    equal_failures: int
    keep_models: str
    max_disk: str | None
    ray: Mapping[str, Any]


def sections(reference: str, options: SearchOptions) -> dict[str, Any]:
    """The options in the YAML's shape: those of `search` in their own section."""
    known = [*RunConfig.model_fields, *SearchConfig.model_fields]
    found: dict[str, Any] = {"task": reference, "search": {}}
    for name, value in options.items():
        if name not in SearchOptions.__annotations__:
            raise UsageError(f"search: {name} is not an option · {nearest(name, known)}")
        section = found["search"] if name in SearchConfig.model_fields else found
        section[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Paths as text, and sequences as lists, at every depth."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
