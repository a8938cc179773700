"""The settings of a space: what may be written for each, and the distributions that come of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from autoprune.candidate import BY_OPTIMIZER, IMPORTANCES, OPTIMIZERS, PENALTIES
from autoprune.errors import ConfigError
from autoprune.printable import shown
from autoprune.schedule import KINDS, MOST_STEPS

AUTO = "auto"  # a `round_to` that is learned from the target; an optimizer that fits the model
Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One distribution: a choice where `choices` is not empty, otherwise [low, high]."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Value, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether it draws numbers, not words."""
        return not any(isinstance(choice, str) for choice in self.choices)

    def clip(self, value: Value) -> Value:
        """The nearest value that this distribution can draw; ValueError for an unknown choice."""
        if self.choices:
            if value not in self.choices:
                known = ", ".join(str(choice) for choice in self.choices)
                raise ValueError(f"{self.name} can be {known}, got {shown(value)}")
            return value
        bounded = min(max(float(value), self.low), self.high)
        return round(bounded) if self.integer else bounded


@dataclass(frozen=True, slots=True)
class Setting:
    """What may be written for one key of a space."""

    kind: Literal["word", "switch", "number", "integer"]
    default: Value
    low: float = 0.0
    high: float = math.inf
    words: Collection[str] = ()
    open_low: bool = False
    open_high: bool = False
    besides: str = ""  # what else may be written, as the error says it

    def check(self, value: Any, place: str) -> Value:
        """The value in its own type; ConfigError where it does not fit."""
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise ConfigError(f"{place} must be true or false, got {shown(value)}")
            return value
        if self.kind == "word":
            if not isinstance(value, str) or value not in self.words:
                raise ConfigError(
                    f"{place} must be one of {', '.join(self.words)}, got {shown(value)}"
                    + nearest_word(str(value), self.words)
                )
            return str(value)
        return self._number(value, place)

    def _number(self, value: Any, place: str) -> float | int:
        number = _as_number(value)
        if number is None or (self.kind == "integer" and number != int(number)):
            noun = "a whole number" if self.kind == "integer" else "a number"
            raise ConfigError(f"{place} must be {noun}{self.besides}, got {shown(value)}")
        too_low = number < self.low or (self.open_low and number == self.low)
        if too_low or number > self.high or (self.open_high and number == self.high):
            raise ConfigError(f"{place} must lie in {self._interval()}, got {shown(value)}")
        return int(number) if self.kind == "integer" else number

    def schema(self, *, by_optimizer: bool = False) -> dict[str, Any]:
        """The JSON schema of what may be written: a value, a list, a range of numbers."""
        numbers = {"number": "number", "integer": "integer"}
        value: dict[str, Any] = {"type": numbers.get(self.kind, "boolean")}
        if self.kind == "word":
            value = {"enum": list(self.words)}
        forms = [value, {"type": "array", "items": value, "minItems": 1}]
        if self.kind in numbers:
            value |= {"exclusiveMinimum" if self.open_low else "minimum": self.low}
            if not math.isinf(self.high):
                value |= {"exclusiveMaximum" if self.open_high else "maximum": self.high}
            ends = {"min": value, "max": value, "log": {"type": "boolean"}}
            form = {"type": "object", "properties": ends, "required": ["min", "max"]}
            forms.append({**form, "additionalProperties": False})
        if by_optimizer:
            each = {name: {"anyOf": list(forms)} for name in OPTIMIZERS}
            forms.append({"type": "object", "properties": each, "additionalProperties": False})
        return {"anyOf": forms}

    def _interval(self) -> str:
        left = "(" if self.open_low else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


SETTINGS: dict[str, Setting] = {
    "importance": Setting("word", "obs", words=IMPORTANCES),
    "repair": Setting("switch", True),
    "schedule.kind": Setting("word", "one_shot", words=KINDS),
    "schedule.begin": Setting("number", 0.0, high=1.0, open_high=True),
    "schedule.end": Setting("number", 0.5, high=1.0, open_high=True),
    "schedule.steps": Setting("integer", 4, low=1, high=MOST_STEPS),
    "recovery.optimizer": Setting("word", AUTO, words=(AUTO, *OPTIMIZERS)),
    "recovery.lr": Setting("number", math.nan, high=100.0, open_low=True),
    "recovery.weight_decay": Setting("number", math.nan, high=10.0),
    "recovery.distillation": Setting("number", 0.5, high=1.0),
    "recovery.regularizer": Setting("number", 0.0, high=100.0),
    "recovery.penalty": Setting("word", PENALTIES[0], words=PENALTIES),
    "recovery.grad_clip": Setting("number", 0.0, high=1e9),
    "recovery.warmup": Setting("number", 0.05, high=1.0, open_high=True),
    "recovery.rewarm": Setting("switch", False),
    "recovery.ema": Setting("number", 0.0, high=1.0, open_high=True),
    "recovery.label_smoothing": Setting("number", 0.0, high=1.0, open_high=True),
    "recovery.mixup": Setting("number", 0.0, high=100.0),
    "recovery.features": Setting("number", 0.0, high=1e6),
}
for _name, _defaults in BY_OPTIMIZER.items():  # `recovery.lr.sgd`: the value where that one is used
    for _optimizer, _default in _defaults.items():
        SETTINGS[f"recovery.{_name}.{_optimizer}"] = replace(
            SETTINGS[f"recovery.{_name}"], default=_default
        )


def without_optimizer(name: str) -> str:
    """`recovery.lr.sgd` -> `recovery.lr`; any other setting's name as it is."""
    stem, _, last = name.rpartition(".")
    return stem if stem in SETTINGS and last in OPTIMIZERS else name


def read_setting(name: str, value: Any, place: str) -> Value | Parameter:
    """A constant, or the distribution of a list or range; ConfigError where it does not fit."""
    setting = SETTINGS[name]
    if isinstance(value, Mapping):
        return _read_range(name, value, place)
    if not isinstance(value, list | tuple):
        return setting.check(value, place)
    choices = tuple(
        dict.fromkeys(setting.check(item, f"{place}[{i}]") for i, item in enumerate(value))
    )
    if not choices:
        raise ConfigError(f"{place} is an empty list · write at least one value")
    return choices[0] if len(choices) == 1 else Parameter(name, choices=choices)


def constants(section: str, values: Mapping[str, Any]) -> dict[str, Value]:
    """Constants of a section, `recovery` or `schedule`, checked; ConfigError where one is wrong.

    >>> constants("recovery", {"ema": 0.99, "rewarm": True})
    {'ema': 0.99, 'rewarm': True}
    """
    known = [name.split(".") for name in SETTINGS]
    check_keys(values, [parts[1] for parts in known if parts[0] == section == parts[-2]], section)
    return {
        name: SETTINGS[f"{section}.{name}"].check(value, f"{section}.{name}")
        for name, value in values.items()
    }


def _read_range(name: str, value: Mapping[str, Any], place: str) -> Value | Parameter:
    setting = SETTINGS[name]
    check_keys(value, ("min", "max", "log"), place)
    if setting.kind in ("word", "switch"):
        raise ConfigError(f"{place} takes a value or a list of values, not a range")
    missing = [key for key in ("min", "max") if key not in value]
    if missing:
        raise ConfigError(f"{place} is a range and needs {' and '.join(missing)}")
    low = float(setting.check(value["min"], f"{place}.min"))
    high = float(setting.check(value["max"], f"{place}.max"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{place}.log must be true or false, got {shown(log)}")
    if low > high:
        raise ConfigError(f"{place}: min must not be above max, got min={low:g}, max={high:g}")
    if log and low <= 0.0:
        raise ConfigError(f"{place}: a log range needs min above 0, got {low:g}")
    if low == high:
        return setting.check(low, place)
    return Parameter(name, low, high, log=log, integer=setting.kind == "integer")


def check_keys(spec: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    """Raise ConfigError for a key that is not known, with the nearest that is."""
    names = tuple(known)
    for key in spec:
        if key not in names:
            raise ConfigError(
                f"{place}.{key} is not a key{nearest_word(str(key), names)} · known: "
                f"{', '.join(names)}"
            )


def nearest_word(word: str, known: Iterable[str]) -> str:
    """A question for the end of an error: the nearest known word; empty where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" · did you mean {close[0]!r}?" if close else ""


def as_mapping(value: Any, place: str) -> Mapping[str, Any]:
    """The value, which must be a mapping: else ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} must be a mapping of keys to values, got {shown(value)}")
    return value


def _as_number(value: Any) -> float | None:
    """YAML reads 1e-3 as a word: such words are numbers too. Truth values and NaN are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
