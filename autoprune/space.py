"""What a search may vary, as it is written in YAML: ratios, schedule and recovery.

A space knows neither a sampler nor a model: it describes plain distributions (`Parameter`).
`FittedSpace` applies it to a model's groups.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from autoprune.architecture import FLOAT32, PRECISIONS
from autoprune.candidate import BY_OPTIMIZER, IMPORTANCES, OPTIMIZERS, PENALTIES
from autoprune.errors import ConfigError
from autoprune.patterns import DENSE, UNSTRUCTURED, PatternSpace, canonical
from autoprune.printable import shown
from autoprune.schedule import CURVES

RATIO = "ratio"
AUTO = "auto"  # a `round_to` that is learned from the target; an optimizer that fits the model
Per = Literal["group", "global"]
Value = bool | int | float | str


def kept_units(size: int, ratio: float, round_to: int = 1) -> int:
    """How many of `size` units stay when the fraction `ratio` leaves.

    The nearest multiple of the effective step (ties keep more), at least one step, at most `size`;
    a ratio of 0 always keeps all. The effective step is `round_to`, made smaller for small groups
    so that about four choices remain: min(round_to, max(1, size // 4)).

    >>> [kept_units(64, ratio, 8) for ratio in (0.0, 0.3, 0.5, 0.99)]
    [64, 48, 32, 8]
    >>> kept_units(9, 0.0, 2), kept_units(9, 0.1, 2)
    (9, 8)
    """
    step = min(round_to, max(1, size // 4))
    wanted = round(size * (1.0 - ratio), 9)
    lower = int(wanted // step) * step
    upper = min(lower + step, size)
    nearest = upper if upper - wanted <= wanted - lower else lower
    return max(nearest, min(step, size))


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
class _Knob:
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
                    + _nearest(str(value), self.words)
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


_KNOBS: dict[str, _Knob] = {
    "importance": _Knob("word", "obs", words=IMPORTANCES),
    "repair": _Knob("switch", True),
    "schedule.kind": _Knob("word", "one_shot", words=CURVES),
    "schedule.begin": _Knob("number", 0.0, high=1.0, open_high=True),
    "schedule.end": _Knob("number", 0.5, high=1.0, open_high=True),
    "schedule.steps": _Knob("integer", 4, low=1, high=100),
    "recovery.optimizer": _Knob("word", AUTO, words=(AUTO, *OPTIMIZERS)),
    "recovery.lr": _Knob("number", math.nan, high=100.0, open_low=True),
    "recovery.weight_decay": _Knob("number", math.nan, high=10.0),
    "recovery.distillation": _Knob("number", 0.5, high=1.0),
    "recovery.regularizer": _Knob("number", 0.0, high=100.0),
    "recovery.penalty": _Knob("word", PENALTIES[0], words=PENALTIES),
    "recovery.grad_clip": _Knob("number", 0.0, high=1e9),
    "recovery.warmup": _Knob("number", 0.05, high=1.0, open_high=True),
}
for _name, _defaults in BY_OPTIMIZER.items():  # `recovery.lr.sgd`: the value where that one is used
    for _optimizer, _default in _defaults.items():
        _KNOBS[f"recovery.{_name}.{_optimizer}"] = replace(
            _KNOBS[f"recovery.{_name}"], default=_default
        )
_RATIO = _Knob("number", 0.0, high=1.0, open_high=True)
_ROUND = _Knob("integer", 1, low=1, high=4096, besides=" or auto")
_SECTIONS = ("schedule", "recovery")
_DEPTH = _Knob("number", 0.7, high=1.0)
_PRECISION = _Knob("word", FLOAT32, words=PRECISIONS)
_ORDER = ("schedule.begin", "schedule.end")
_TOP = (
    *("ratios", "round_to", "depth", "precision", "patterns", "importance", "repair"),
    *_SECTIONS,
)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Which candidates a search may propose.

    Ratios (removed fractions) lie in [`min_ratio`, `max_ratio`], one for each group or
    (`per="global"`) one for all. `varied` are the other distributions, `fixed` the values of the
    keys that do not vary. Widths are multiples of `round_to`; with `auto` (written as
    `round_to: auto`) of the step that is efficient on the target device. Of a model's residual
    blocks at most the share `max_depth` is dropped (`depth: {max: 0.7}`; `depth: false` is 0).
    A finished model is float32, int8, or either (`precisions`). `patterns` are those that the zeros
    of single weights may have.

    >>> space = SearchSpace.parse({"ratios": {"max": 0.5}, "recovery": {"lr": [0.01, 0.1]}})
    >>> space.max_ratio, [parameter.name for parameter in space.varied]
    (0.5, ['recovery.lr'])
    """

    min_ratio: float = 0.0
    max_ratio: float = 0.8
    per: Per = "group"
    round_to: int = 1
    varied: tuple[Parameter, ...] = ()
    fixed: Mapping[str, Value] = field(default_factory=dict)
    auto: bool = False
    max_depth: float = 0.7
    precisions: tuple[str, ...] = (FLOAT32,)
    patterns: PatternSpace = field(default_factory=PatternSpace)

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_ratio <= self.max_ratio < 1.0:
            raise ConfigError(
                "space.ratios must hold 0 <= min <= max < 1 (removed fractions), "
                f"got min={self.min_ratio}, max={self.max_ratio}"
            )
        written = {parameter.name for parameter in self.varied} | set(self.fixed)
        defaults = {
            name: knob.default
            for name, knob in _KNOBS.items()
            if knob.default == knob.default  # NaN: the default depends on the optimizer
            and not {name, without_optimizer(name)} & written
        }
        object.__setattr__(self, "fixed", MappingProxyType({**defaults, **self.fixed}))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot travel to a worker by itself
        state = (self.min_ratio, self.max_ratio, self.per, self.round_to, self.varied)
        rest = (self.auto, self.max_depth, self.precisions, self.patterns)
        return SearchSpace, (*state, dict(self.fixed), *rest)

    @staticmethod
    def parse(spec: Mapping[str, Any], place: str = "space") -> SearchSpace:
        """Read a space from the mapping that a YAML file gives.

        Each key of `importance`, `repair`, `schedule` and `recovery` is a constant, a list (choice)
        or `{min, max, log}`; `recovery.lr` and `recovery.weight_decay` may also be a mapping from
        optimizers to these, such as `{sgd: 0.01, adamw: [0.001, 0.0003]}`. Raises ConfigError that
        names the key, the value and what is understood; an unknown key names the nearest known one.
        """
        _known(spec, _TOP, place)
        ratios = _mapping(spec.get("ratios", {}), f"{place}.ratios")
        _known(ratios, ("min", "max", "per"), f"{place}.ratios")
        fixed: dict[str, Value] = {}
        varied: list[Parameter] = []
        for name, value in _flat(spec, place).items():
            read = _read(name, value, f"{place}.{name}")
            if isinstance(read, Parameter):
                varied.append(read)
            else:
                fixed[name] = read
        _check_order(fixed, varied, place)
        per = _Knob("word", "group", words=("group", "global"))
        step = spec.get("round_to", 1)
        auto = step == AUTO
        return SearchSpace(
            min_ratio=float(_RATIO.check(ratios.get("min", 0.0), f"{place}.ratios.min")),
            max_ratio=float(_RATIO.check(ratios.get("max", 0.8), f"{place}.ratios.max")),
            per="global"
            if per.check(ratios.get("per", "group"), f"{place}.ratios.per") == "global"
            else "group",
            round_to=1 if auto else int(_ROUND.check(step, f"{place}.round_to")),
            varied=tuple(varied),
            fixed=fixed,
            auto=auto,
            max_depth=_read_depth(spec.get("depth", True), f"{place}.depth"),
            precisions=_read_precisions(spec.get("precision", FLOAT32), f"{place}.precision"),
            patterns=_read_patterns(spec.get("patterns", False), f"{place}.patterns"),
        )

    def for_optimizer(self, auto: str) -> SearchSpace:
        """The space where `optimizer: auto` is `auto`, without settings of optimizers it lacks.

        >>> space = SearchSpace.parse({"recovery": {"lr": {"adamw": [0.001, 0.0003]}}})
        >>> [p.name for p in space.for_optimizer("adamw").varied], space.for_optimizer("sgd").varied
        (['recovery.lr'], ())
        """
        choice = next((p for p in self.varied if p.name == "recovery.optimizer"), None)
        words = choice.choices if choice else (self.fixed["recovery.optimizer"],)
        used = tuple(dict.fromkeys(auto if word == AUTO else str(word) for word in words))
        names = {name: _name_with(name, used) for name in _KNOBS}
        fixed = {names[name]: value for name, value in self.fixed.items() if names[name]}
        varied = [replace(p, name=names[p.name]) for p in self.varied if names[p.name]]
        if len(used) == 1:
            fixed["recovery.optimizer"] = used[0]
            varied = [p for p in varied if p.name != "recovery.optimizer"]
        else:
            varied = [replace(p, choices=used) if p == choice else p for p in varied]
        return replace(self, fixed=fixed, varied=tuple(varied))


def schema() -> dict[str, Any]:
    """The JSON schema of a space as it is written in YAML."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    found: dict[str, Any] = {key: {} for key in _TOP}
    for name, knob in _KNOBS.items():
        if without_optimizer(name) == name:
            section, _, key = name.rpartition(".")
            sections.get(section, found)[key] = knob.schema(by_optimizer=key in BY_OPTIMIZER)
    closed: dict[str, Any] = {"type": "object", "additionalProperties": False}
    ratio = _RATIO.schema()["anyOf"][0]
    per = {"enum": ["group", "global"]}
    found |= {name: {**closed, "properties": inner} for name, inner in sections.items()}
    found["ratios"] = {**closed, "properties": {"min": ratio, "max": ratio, "per": per}}
    found["round_to"] = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": AUTO}]}
    most = {**closed, "properties": {"max": {"type": "number", "minimum": 0, "maximum": 1}}}
    found["precision"] = {"anyOf": _PRECISION.schema()["anyOf"]}
    found["depth"] = {"anyOf": [{"type": "boolean"}, most]}
    return {**closed, "properties": found}


def without_optimizer(name: str) -> str:
    """`recovery.lr.sgd` -> `recovery.lr`; any other knob's name as it is."""
    stem, _, last = name.rpartition(".")
    return stem if stem in _KNOBS and last in OPTIMIZERS else name


def _name_with(name: str, used: tuple[str, ...]) -> str:
    """The name of a knob in a space of these optimizers; empty where none of them has it."""
    stem = without_optimizer(name)
    if stem == name:
        return name
    if name.removeprefix(f"{stem}.") not in used:
        return ""
    return stem if len(used) == 1 else name


def _read_depth(written: Any, place: str) -> float:
    """The largest share of blocks that may be dropped: `true`, `false`, or `{max: share}`."""
    if isinstance(written, bool):
        return float(_DEPTH.default) if written else 0.0
    if not isinstance(written, Mapping):
        raise ConfigError(
            f"{place} must be true, false or a mapping such as {{max: 0.7}}, got {shown(written)}"
        )
    _known(written, ("max",), place)
    return float(_DEPTH.check(written.get("max", _DEPTH.default), f"{place}.max"))


def _read_precisions(written: Any, place: str) -> tuple[str, ...]:
    """One precision or a list of them, in the order of `PRECISIONS`."""
    given = written if isinstance(written, list | tuple) else [written]
    found = {_PRECISION.check(word, place) for word in given}
    if not found:
        raise ConfigError(f"{place} is an empty list · write at least one value")
    return tuple(word for word in PRECISIONS if word in found)


def _read_patterns(written: Any, place: str) -> PatternSpace:
    """`false`, or `{kinds: [dense, unstructured, "2:4"], sparsity: {min, max}, per: global}`."""
    if written is False:
        return PatternSpace()
    spec = _mapping(written, place)
    _known(spec, ("kinds", "sparsity", "per"), place)
    listed = spec.get("kinds", [UNSTRUCTURED])
    if not isinstance(listed, list | tuple) or not listed:
        raise ConfigError(f"{place}.kinds must be a list such as [dense, '2:4'], got {listed!r}")
    kinds = dict.fromkeys(_read_kind(kind, f"{place}.kinds[{i}]") for i, kind in enumerate(listed))
    written = spec.get("sparsity", {})
    bounds = written if isinstance(written, Mapping) else {"min": written, "max": written}
    _known(bounds, ("min", "max"), f"{place}.sparsity")
    if bounds and UNSTRUCTURED not in kinds:
        raise ConfigError(f"{place}.sparsity is for the kind unstructured, got {', '.join(kinds)}")
    default = PatternSpace()
    per = _Knob("word", "global", words=("global", "weight"))
    return PatternSpace(
        tuple(kinds),
        float(_RATIO.check(bounds.get("min", default.low), f"{place}.sparsity.min")),
        float(_RATIO.check(bounds.get("max", default.high), f"{place}.sparsity.max")),
        "weight" if per.check(spec.get("per", "global"), f"{place}.per") == "weight" else "global",
    )


def _read_kind(kind: Any, place: str) -> str:
    if kind in (DENSE, UNSTRUCTURED):
        return str(kind)
    try:
        if ":" not in str(kind):
            raise ValueError("")
        return canonical(kind)
    except ValueError:
        raise ConfigError(
            f"{place} must be dense, unstructured, or N:M in quotes with N < M such as '2:4', "
            f"got {kind!r}"
        ) from None


def _known(spec: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    names = tuple(known)
    for key in spec:
        if key not in names:
            raise ConfigError(
                f"{place}.{key} is not a key{_nearest(str(key), names)} · known: {', '.join(names)}"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" · did you mean {close[0]!r}?" if close else ""


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} must be a mapping of keys to values, got {shown(value)}")
    return value


def _flat(spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Knob name to what was written for it, in the order of the knobs."""
    written = {name: spec[name] for name in ("importance", "repair") if name in spec}
    for section in _SECTIONS:
        inner = _mapping(spec.get(section, {}), f"{place}.{section}")
        prefix = f"{section}."
        names = [name.removeprefix(prefix) for name in _KNOBS if name.startswith(prefix)]
        _known(inner, [name for name in names if "." not in name], f"{place}.{section}")
        for key, value in inner.items():
            if key in BY_OPTIMIZER and isinstance(value, Mapping) and not {"min", "max"} & {*value}:
                _known(value, OPTIMIZERS, f"{place}.{section}.{key}")
                written.update({f"{prefix}{key}.{name}": each for name, each in value.items()})
            else:
                written[prefix + key] = value
    return {name: written[name] for name in _KNOBS if name in written}


def _read(name: str, value: Any, place: str) -> Value | Parameter:
    knob = _KNOBS[name]
    if isinstance(value, Mapping):
        return _read_range(name, value, place)
    if not isinstance(value, list | tuple):
        return knob.check(value, place)
    choices = tuple(
        dict.fromkeys(knob.check(item, f"{place}[{i}]") for i, item in enumerate(value))
    )
    if not choices:
        raise ConfigError(f"{place} is an empty list · write at least one value")
    return choices[0] if len(choices) == 1 else Parameter(name, choices=choices)


def _read_range(name: str, value: Mapping[str, Any], place: str) -> Value | Parameter:
    knob = _KNOBS[name]
    _known(value, ("min", "max", "log"), place)
    if knob.kind in ("word", "switch"):
        raise ConfigError(f"{place} takes a value or a list of values, not a range")
    missing = [key for key in ("min", "max") if key not in value]
    if missing:
        raise ConfigError(f"{place} is a range and needs {' and '.join(missing)}")
    low = float(knob.check(value["min"], f"{place}.min"))
    high = float(knob.check(value["max"], f"{place}.max"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{place}.log must be true or false, got {shown(log)}")
    if low > high:
        raise ConfigError(f"{place}: min must not be above max, got min={low:g}, max={high:g}")
    if log and low <= 0.0:
        raise ConfigError(f"{place}: a log range needs min above 0, got {low:g}")
    if low == high:
        return knob.check(low, place)
    return Parameter(name, low, high, log=log, integer=knob.kind == "integer")


def _check_order(fixed: Mapping[str, Value], varied: Sequence[Parameter], place: str) -> None:
    """Raise ConfigError where every schedule that is written begins after its end."""
    ends = {p.name: [float(c) for c in p.choices] or [p.low, p.high] for p in varied if p.is_number}
    ends |= {name: [float(fixed[name])] for name in _ORDER if name in fixed}
    begin, end = (ends.get(name) for name in _ORDER)
    if begin and end and min(begin) > max(end) and fixed.get("schedule.kind") != "one_shot":
        raise ConfigError(
            f"{place}.schedule.begin must not be above end, got begin={min(begin):g}, "
            f"end={max(end):g}"
        )


def _as_number(value: Any) -> float | None:
    """YAML reads 1e-3 as a word: such words are numbers too. Truth values and NaN are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
