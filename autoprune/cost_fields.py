"""What costs are called: the fields of `Cost`, and latencies on devices that have names.

A search with several devices has a latency for each of them: `latency_ms@phone`. The same name
is used in the budget, the objectives, the records, the tables and `--pick`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.errors import BudgetError

MEMORY = "peak_memory_bytes"
COUNTS: tuple[str, ...] = ("params", "macs", "weight_bytes", MEMORY)
LATENCIES: tuple[str, ...] = ("latency_ms", "latency_p95_ms")
FILE = "file_bytes"  # of the compressed file, which knows of zeros
FIELDS: tuple[str, ...] = (*COUNTS, FILE, *LATENCIES)
AT = "@"
DEVICE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def field_at(field: str, device: str) -> str:
    """The name of a latency on a device; where that has no name, the field itself.

    >>> field_at("latency_ms", "phone"), field_at("latency_ms", "")
    ('latency_ms@phone', 'latency_ms')
    """
    return f"{field}{AT}{device}" if device else field


def split_field(name: str) -> tuple[str, str]:
    """A cost's field and the name of its device, empty where none is named.

    >>> split_field("latency_ms@phone"), split_field("macs")
    (('latency_ms', 'phone'), ('macs', ''))
    """
    field, _, device = name.partition(AT)
    return field, device


def is_cost(name: str) -> bool:
    """Whether a name is one of `FIELDS`, or a latency on a named device.

    >>> is_cost("macs"), is_cost("latency_ms@phone"), is_cost("macs@phone"), is_cost("accuracy")
    (True, True, False, False)
    """
    return name in FIELDS or is_latency(name)


def is_latency(name: str) -> bool:
    """Whether a name is a latency, on a named device or not."""
    field, at, device = name.partition(AT)
    return field in LATENCIES and (not at or DEVICE_NAME.fullmatch(device) is not None)


def cost_fields(devices: Sequence[str] = ()) -> tuple[str, ...]:
    """The costs of a search: `FIELDS`, each latency once for each of the named `devices`.

    >>> cost_fields(["phone"])[-2:]
    ('latency_ms@phone', 'latency_p95_ms@phone')
    """
    counts = tuple(field for field in FIELDS if field not in LATENCIES)
    return counts + tuple(field_at(f, name) for name in devices or ("",) for f in LATENCIES)


def on_device(name: str, devices: Sequence[str], place: str) -> str:
    """A cost as it is called where latencies are those of the named `devices` (perhaps none).

    A latency without a device is that of the only one. Raises BudgetError, which begins with
    `place`, for a device that is not among them, and for a latency that could be that of several.
    """
    field, device = split_field(name)
    if not is_latency(name) or (not device and not devices):
        return name
    if device and not devices:
        raise BudgetError(
            f"{place}: {name} is a latency on a named device, and no device has a name · write "
            f"{field}, or name the devices with devices: {{{device}: {{runtime: onnxruntime}}}}"
        )
    known = [field_at(field, each) for each in devices]
    if not device and len(devices) > 1:
        raise BudgetError(
            f"{place}: {field} must say on which device, one of {', '.join(devices)} · write e.g. "
            f"{known[0]}"
        )
    if device and device not in devices:
        near = difflib.get_close_matches(device, devices, n=1, cutoff=0.5)
        hint = f"nearest: {near[0]}" if near else f"known: {', '.join(devices)}"
        raise BudgetError(f"{place}: {name}: no device is called {device!r} · {hint}")
    return name if device else known[0]


def by_device(spec: Mapping[str, Any], place: str = "budget") -> dict[str, Any]:
    """Limits by flat names: `{latency_ms: {phone: 8}}` becomes `{latency_ms@phone: 8}`.

    Raises BudgetError for a duplicate, and for a count by device.
    """
    flat: dict[str, Any] = {}
    for field, value in spec.items():
        limits = {"": value}
        if isinstance(value, Mapping) and field in FIELDS:
            if field not in LATENCIES:
                raise BudgetError(
                    f"{place}.{field} is one limit for all devices, got {value!r} · write e.g. "
                    f"{field}: 50%"
                )
            limits = {str(device): limit for device, limit in value.items()}
            if not limits or "" in limits:
                raise BudgetError(f"{place}.{field} must name devices, got {value!r}")
        for device, limit in limits.items():
            name = field_at(field, device)
            if name in flat:
                raise BudgetError(f"{place}.{name} is a duplicate key · leave one of them out")
            flat[name] = limit
    return flat
