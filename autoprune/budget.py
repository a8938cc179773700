"""What a model costs, and the limits that an engineer puts on it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.cost_fields import FIELDS, LATENCIES, by_device, field_at, is_cost, split_field
from autoprune.errors import BudgetError

Source = Literal["analytic", "predicted", "measured"]

Value = str | float | int
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
FPS = "fps"  # a latency as its reciprocal: frames (samples) per second
_UNITS: dict[str, dict[str, float]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "weight_bytes": _BYTES,
    "peak_memory_bytes": _BYTES,
    "file_bytes": _BYTES,
    "latency_ms": _TIMES,
    "latency_p95_ms": _TIMES,
}
_HUGE = 1e30
_MOST_PERCENT = 1000.0  # pruning makes nothing dearer: any limit above 100 % always holds
_LONGEST = 80  # of a limit's text
_SPREAD = 0.15  # wider than this: something else used the machine
_BUSY = 0.1
_EXAMPLE = {"params": "1.5 M", "macs": "20 M", "weight_bytes": "2 MB", "peak_memory_bytes": "4 MB"}
_EXAMPLE |= {"file_bytes": "60 kB"}


@dataclass(frozen=True, slots=True)
class Device:
    """Where and how a latency holds: it never travels without this."""

    name: str
    runtime: str = "torch"
    dtype: str = "float32"
    batch: int = 1
    threads: int = 1

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.runtime}, {self.dtype}, "
            f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Confidence:
    """How far a measured latency is to be trusted.

    `ci_ms` is a 95 % confidence interval of the median. `ratio` is the time relative to the model
    that was measured first, in turns with this one, and `ratio_ci` the interval of it. `spread` is
    the distance between the quartiles relative to the median, `busy` the share of the device's
    cores that others (programs, or other virtual machines) used meanwhile, None if unknown.
    """

    ci_ms: tuple[float, float]
    ratio: float = 1.0
    ratio_ci: tuple[float, float] = (1.0, 1.0)
    spread: float = 0.0
    busy: float | None = None

    @property
    def half_width(self) -> float:
        """Half of the median's interval, relative to its middle."""
        low, high = self.ci_ms
        return (high - low) / (high + low)

    @property
    def note(self) -> str:
        """Why the measurement is noisy, in words; empty where it is not.

        It is with a spread above 0.15, or with others on more than a tenth of the cores.
        """
        parts = [f"spread {self.spread:.0%}"] if self.spread > _SPREAD else []
        if self.busy is not None and self.busy > _BUSY:
            parts.append(f"other programs on {self.busy:.0%} of the cores")
        return f"noisy: {', '.join(parts)}" if parts else ""

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Confidence:
        """Inverse of `dataclasses.asdict`."""
        pairs = {name: tuple(data[name]) for name in ("ci_ms", "ratio_ci")}
        return Confidence(**{**data, **pairs})


@dataclass(frozen=True, slots=True)
class Timing:
    """The latency of one forward pass on a device; a search with several calls it by `name`."""

    name: str
    latency_ms: float
    latency_p95_ms: float | None
    device: Device
    confidence: Confidence | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Timing:
        """Inverse of `dataclasses.asdict`."""
        sure = Confidence.from_dict(data["confidence"]) if data.get("confidence") else None
        return Timing(**{**data, "device": Device(**data["device"]), "confidence": sure})


@dataclass(frozen=True, slots=True)
class Cost:
    """What one model costs; `None` where it was not determined.

    Multiply-accumulates (`macs`) and `peak_memory_bytes` (weights plus the largest set of live
    activations) are for one forward pass at the batch of the example input. `file_bytes` is the
    size of the model as a packed file, compressed without the zeros of its weights, and of an int8
    model that of its ONNX file. Latencies are milliseconds for one forward pass; they need a
    `device`, and measured ones have a `confidence`. Where a search names its devices, all latencies
    are in `timings`, one a device, and are read as `latency_ms@<name>`.
    """

    params: int | None = None
    macs: int | None = None
    weight_bytes: int | None = None
    peak_memory_bytes: int | None = None
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    source: Source = "analytic"
    device: Device | None = None
    confidence: Confidence | None = None
    timings: tuple[Timing, ...] = ()
    file_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and self.device is None:
            raise ValueError("a latency needs a device: runtime, dtype, batch and threads")
        if len(set(self.names)) != len(self.timings):
            raise ValueError(f"a device has one timing, got {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The named devices whose latency is known, in the order of the configuration."""
        return tuple(timing.name for timing in self.timings)

    @property
    def timed_on(self) -> tuple[str, ...]:
        """The devices whose latency is known; one that is not named is the empty string."""
        return self.names or (() if self.latency_ms is None else ("",))

    def value(self, field: str) -> float | None:
        """The value of a cost, None where it was not determined; ValueError where it is none."""
        if not is_cost(field):
            raise ValueError(f"{field!r} is not a cost")
        base, name = split_field(field)
        found: float | None = getattr(self._timing(name) if name else self, base, None)
        return found

    def get(self, field: str) -> float:
        """The value of a cost; raises BudgetError where it was not determined."""
        value = self.value(field) if is_cost(field) else None
        if value is None:
            raise BudgetError(f"{field} was not determined for this model ({self.source} cost)")
        return float(value)

    def device_of(self, name: str) -> Device | None:
        """Where the latency of a named device holds; `""` is the device without a name."""
        found: Device | None = getattr(self._timing(name) if name else self, "device", None)
        return found

    def confidence_of(self, name: str) -> Confidence | None:
        """How far the latency on a named device is to be trusted, None where it was not measured.

        `""` is the device without a name.
        """
        found: Confidence | None = getattr(self._timing(name) if name else self, "confidence", None)
        return found

    def note(self, name: str) -> str:
        """Why the measurement on a named device is noisy, in words; empty where it is not."""
        sure = self.confidence_of(name)
        return sure.note if sure else ""

    def timed(self, timing: Timing, source: Source) -> Cost:
        """The same with a latency, in place of any other on the device of that name."""
        if timing.name:
            others = tuple(each for each in self.timings if each.name != timing.name)
            return dataclasses.replace(self, timings=(*others, timing), source=source)
        return dataclasses.replace(
            self,
            latency_ms=timing.latency_ms,
            latency_p95_ms=timing.latency_p95_ms,
            device=timing.device,
            confidence=timing.confidence,
            source=source,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` reads it back."""
        plain = dataclasses.asdict(self)
        rest = {"confidence": plain.pop("confidence"), "timings": list(plain.pop("timings"))}
        rest["file_bytes"] = plain.pop("file_bytes")
        return plain | {name: value for name, value in rest.items() if value}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Cost:
        """Inverse of `to_dict`."""
        device = Device(**data["device"]) if data.get("device") else None
        sure = Confidence.from_dict(data["confidence"]) if data.get("confidence") else None
        timings = tuple(Timing.from_dict(timing) for timing in data.get("timings", ()))
        return Cost(**{**data, "device": device, "confidence": sure, "timings": timings})

    def _timing(self, name: str) -> Timing | None:
        return next((timing for timing in self.timings if timing.name == name), None)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that one field of `Cost` may be: absolute, or relative to the dense model.

    `fps` is the rate where a latency was given as frames per second; `value` is milliseconds there
    too.
    """

    field: str
    value: float
    relative: bool = False
    fps: float | None = None

    def resolve(self, dense: Cost) -> float:
        """The limit in the field's own unit."""
        return self.value * dense.get(self.field) if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.field} <= {self.value:.4g}{self.note}" + (
            " x dense" if self.relative else ""
        )

    @property
    def note(self) -> str:
        """The rate that was given, behind the milliseconds; empty where none was."""
        return f" ({self.fps:g} {FPS})" if self.fps is not None else ""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits that hold together. Read one from a mapping with `Budget.parse`.

    >>> str(Budget.parse({"latency_ms": "8 ms", "macs": "50%"}))
    'latency_ms <= 8, macs <= 0.5 x dense'
    >>> str(Budget.parse({"latency_ms": "30 fps"}, batches={"": 4}))
    'latency_ms <= 133.3 (30 fps)'
    """

    limits: tuple[Limit, ...]

    @staticmethod
    def parse(
        spec: Mapping[str, Value | Mapping[str, Value]],
        place: str = "budget",
        batches: Mapping[str, int] | None = None,
    ) -> Budget:
        """Read limits such as `8`, `"8 ms"`, `"2 MB"`, `"50%"`; latencies also by device name.

        A latency may be `"30 fps"`: 1000 / 30 ms for each sample of a batch, whose size on the
        device with that name is in `batches` (1 where it is not).
        Raises BudgetError that names the key, the value and the form that is understood.
        """
        if not spec:
            known = ", ".join(FIELDS)
            raise BudgetError(
                f"{place} needs at least one limit, e.g. latency_ms: 50% · fields: {known}"
            )
        flat = by_device(spec, place)
        sizes = batches or {}
        return Budget(tuple(_limit(field, value, place, sizes) for field, value in flat.items()))

    def lowered(
        self, values: Iterable[Value], place: str, batches: Mapping[str, int] | None = None
    ) -> tuple[Budget, ...]:
        """This budget with its first limit lowered to each of `values`, in the order given.

        Raises BudgetError for a value that cannot be read, or is not below that limit.
        """
        first, *others = self.limits
        found = []
        for value in values:
            lower = _limit(first.field, value, place, batches or {})
            if lower.relative == first.relative and lower.value >= first.value:
                raise BudgetError(f"{place}: {value!r} must be below the budget's {first}")
            found.append(Budget((lower, *others)))
        return tuple(found)

    @property
    def fields(self) -> tuple[str, ...]:
        """The cost fields that are limited, in the order given."""
        return tuple(limit.field for limit in self.limits)

    def known_of(self, *costs: Cost) -> Budget:
        """The limits on what all these costs know: some runtimes do not tell their memory."""
        fields = [f for f in self.fields if all(cost.value(f) is not None for cost in costs)]
        return Budget(tuple(limit for limit in self.limits if limit.field in fields))

    def violations(self, cost: Cost, dense: Cost) -> dict[str, float]:
        """For each limited field (cost / limit) - 1: above 0 is over budget."""
        return {
            limit.field: cost.get(limit.field) / limit.resolve(dense) - 1.0 for limit in self.limits
        }

    def allows(self, cost: Cost, dense: Cost) -> bool:
        """Whether every limit holds."""
        return all(over <= 0.0 for over in self.violations(cost, dense).values())

    def __str__(self) -> str:
        return ", ".join(str(limit) for limit in self.limits)


def size_in_bytes(text: str, place: str = "size") -> float:
    """Bytes of a size with its unit. Raises BudgetError for another form.

    >>> size_in_bytes("1.5 GB")
    1500000000.0
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]+)", text.strip()[:_LONGEST])
    factor = _BYTES.get(match.group(2).lower()) if match else None
    if match is None or factor is None or float(match.group(1)) <= 0.0:
        raise BudgetError(f"{place}: cannot read {text[:_LONGEST]!r} · write e.g. '5 GB'")
    return float(match.group(1)) * factor


def _limit(field: str, value: Value, place: str, batches: Mapping[str, int]) -> Limit:
    base, device = split_field(field)
    if base == FPS:
        name = field_at("latency_ms", device)
        raise BudgetError(f"{place}.{field} is not a cost · write {name}: {_rate(value)} {FPS}")
    if not is_cost(field):
        raise BudgetError(f"{place}.{field} is not a cost · fields: {', '.join(FIELDS)}")
    units = _UNITS[base]
    text = str(value).strip()[:_LONGEST]
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(%|[A-Za-z]*)", text)
    if isinstance(value, bool) or match is None:
        raise BudgetError(f"{place}.{field}: cannot read {text!r} · {_forms(field)}")
    number, unit = float(match.group(1)), match.group(2)
    if not 0.0 < number < _HUGE:
        raise BudgetError(f"{place}.{field} must be above 0 and below {_HUGE:g}, got {text!r}")
    if unit == "%":
        if number > _MOST_PERCENT:
            most = f"{_MOST_PERCENT:g}% of the dense model"
            raise BudgetError(f"{place}.{field} must be at most {most}, got {text!r}")
        return Limit(field, number / 100.0, relative=True)
    if not unit:
        return Limit(field, number)
    if unit.lower() == FPS and base in LATENCIES:
        return Limit(field, 1000.0 * batches.get(device, 1) / number, fps=number)
    if unit.lower() not in units:
        raise BudgetError(f"{place}.{field}: unit {unit!r} does not fit · {_forms(field)}")
    return Limit(field, number * units[unit.lower()])


def _rate(value: Value) -> str:
    """The number in a rate such as `30`, `">= 30"` or `"30 fps"`; 30 where there is none."""
    found = re.search(r"[0-9]*\.?[0-9]+", str(value)[:_LONGEST])
    return found.group() if found else "30"


def _forms(field: str) -> str:
    base = split_field(field)[0]
    units = ", ".join([*filter(None, _UNITS[base]), *([FPS] if base in LATENCIES else [])])
    return f"write e.g. {_EXAMPLE.get(field, '8 ms')!r} or '50%' (units: {units})"
