"""The sections `device`, `devices` and `budget` of a configuration, before they are checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config.yaml_file import anchored
from autoprune.cost_fields import DEVICE_NAME, by_device, on_device
from autoprune.errors import BudgetError, ConfigError
from autoprune.printable import quoted, shown

_LONGEST = 255  # characters of a file's name


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
    file = Path(anchored(section["profile"], base) or "")
    wanted = file.name if len(file.name) <= _LONGEST else "device.json"
    remedy = f"make it: autoprune profile TASK --runtime onnxruntime -o {quoted(wanted)}"
    if not os.path.isfile(file):  # noqa: PTH113 - False for a name that is too long, too
        named = str(file) if len(file.name) <= _LONGEST else shown(file.name)
        raise ConfigError(f"{place}: {key}.profile {named} is not a file · {remedy}")
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


def check_device_names(data: Mapping[str, Any], place: str) -> None:
    """Raise ConfigError for a name that cannot be part of a cost's name."""
    devices = data.get("devices")
    for name in devices if isinstance(devices, Mapping) else ():
        if not isinstance(name, str) or not DEVICE_NAME.fullmatch(name):
            raise ConfigError(
                f"{place}: a device's name may hold letters, digits, _ and -, got {shown(name)}"
            )


def resolved_devices(data: Mapping[str, Any], base: Path, place: str) -> dict[str, Any]:
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


def limits_by_name(data: Mapping[str, Any], place: str) -> dict[str, Any] | None:
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
