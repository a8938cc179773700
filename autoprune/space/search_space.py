"""What a search may vary, as it is written in YAML: ratios, schedule and recovery.

A space knows neither a sampler nor a model: it describes plain distributions (`Parameter`).
`FittedSpace` applies it to a model's groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from autoprune.architecture import FLOAT32, PRECISIONS
from autoprune.candidate import BY_OPTIMIZER, OPTIMIZERS
from autoprune.errors import ConfigError
from autoprune.patterns import DENSE, SCORES, UNSTRUCTURED, PatternSpace, canonical
from autoprune.printable import shown
from autoprune.schedule import Curve
from autoprune.space.settings import (
    AUTO,
    SETTINGS,
    Parameter,
    Setting,
    Value,
    as_mapping,
    check_keys,
    read_setting,
    without_optimizer,
)

RATIO = "ratio"
Per = Literal["group", "global"]


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


_RATIO = Setting("number", 0.0, high=1.0, open_high=True)
_ROUND = Setting("integer", 1, low=1, high=4096, besides=" or auto")
_SECTIONS = ("schedule", "recovery")
_DEPTH = Setting("number", 0.7, high=1.0)
_PRECISION = Setting("word", FLOAT32, words=PRECISIONS)
_ORDER = ("schedule.begin", "schedule.end")
_REWARM, _WARMUP = "recovery.rewarm", "recovery.warmup"
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
    of single weights may have. `curve` is the task's own, for the schedules of kind `task`.

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
    curve: Curve | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_ratio <= self.max_ratio < 1.0:
            raise ConfigError(
                "space.ratios must hold 0 <= min <= max < 1 (removed fractions), "
                f"got min={self.min_ratio}, max={self.max_ratio}"
            )
        written = {parameter.name for parameter in self.varied} | set(self.fixed)
        defaults = {
            name: setting.default
            for name, setting in SETTINGS.items()
            if setting.default == setting.default  # NaN: the default depends on the optimizer
            and not {name, without_optimizer(name)} & written
        }
        object.__setattr__(self, "fixed", MappingProxyType({**defaults, **self.fixed}))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy cannot travel to a worker by itself
        state = (self.min_ratio, self.max_ratio, self.per, self.round_to, self.varied)
        rest = (self.auto, self.max_depth, self.precisions, self.patterns)
        return SearchSpace, (*state, dict(self.fixed), *rest, self.curve)

    @staticmethod
    def parse(spec: Mapping[str, Any], place: str = "space") -> SearchSpace:
        """Read a space from the mapping that a YAML file gives.

        Each key of `importance`, `repair`, `schedule` and `recovery` is a constant, a list (choice)
        or `{min, max, log}`; `recovery.lr` and `recovery.weight_decay` may also be a mapping from
        optimizers to these, such as `{sgd: 0.01, adamw: [0.001, 0.0003]}`. Raises ConfigError that
        names the key, the value and what is understood; an unknown key names the nearest known one.
        """
        check_keys(spec, _TOP, place)
        ratios = as_mapping(spec.get("ratios", {}), f"{place}.ratios")
        check_keys(ratios, ("min", "max", "per"), f"{place}.ratios")
        fixed: dict[str, Value] = {}
        varied: list[Parameter] = []
        for name, value in _flat(spec, place).items():
            read = read_setting(name, value, f"{place}.{name}")
            if isinstance(read, Parameter):
                varied.append(read)
            else:
                fixed[name] = read
        _check_order(fixed, varied, place)
        _check_rewarm(fixed, varied, place)
        per = Setting("word", "group", words=("group", "global"))
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
        names = {name: _name_with(name, used) for name in SETTINGS}
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
    for name, setting in SETTINGS.items():
        if without_optimizer(name) == name:
            section, _, key = name.rpartition(".")
            sections.get(section, found)[key] = setting.schema(by_optimizer=key in BY_OPTIMIZER)
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


def _name_with(name: str, used: tuple[str, ...]) -> str:
    """The name of a setting in a space of these optimizers; empty where none of them has it."""
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
    check_keys(written, ("max",), place)
    return float(_DEPTH.check(written.get("max", _DEPTH.default), f"{place}.max"))


def _read_precisions(written: Any, place: str) -> tuple[str, ...]:
    """One precision or a list of them, in the order of `PRECISIONS`."""
    given = written if isinstance(written, list | tuple) else [written]
    found = {_PRECISION.check(word, place) for word in given}
    if not found:
        raise ConfigError(f"{place} is an empty list · write at least one value")
    return tuple(word for word in PRECISIONS if word in found)


def _read_patterns(written: Any, place: str) -> PatternSpace:
    """`false`, or a mapping `{kinds: [dense, unstructured, "2:4"], sparsity: {min, max}, ...}`."""
    if written is False:
        return PatternSpace()
    spec = as_mapping(written, place)
    check_keys(spec, ("kinds", "sparsity", "per", "score"), place)
    listed = spec.get("kinds", [UNSTRUCTURED])
    if not isinstance(listed, list | tuple) or not listed:
        raise ConfigError(f"{place}.kinds must be a list such as [dense, '2:4'], got {listed!r}")
    kinds = dict.fromkeys(_read_kind(kind, f"{place}.kinds[{i}]") for i, kind in enumerate(listed))
    written = spec.get("sparsity", {})
    if isinstance(written, list | tuple):
        raise ConfigError(
            f"{place}.sparsity must be a number or {{min: ..., max: ...}}, got {list(written)}"
        )
    bounds = written if isinstance(written, Mapping) else {"min": written, "max": written}
    check_keys(bounds, ("min", "max"), f"{place}.sparsity")
    if bounds and UNSTRUCTURED not in kinds:
        raise ConfigError(f"{place}.sparsity is for the kind unstructured, got {', '.join(kinds)}")
    default = PatternSpace()
    per = Setting("word", "global", words=("global", "weight"))
    score = Setting("word", default.score, words=SCORES)
    return PatternSpace(
        tuple(kinds),
        float(_RATIO.check(bounds.get("min", default.low), f"{place}.sparsity.min")),
        float(_RATIO.check(bounds.get("max", default.high), f"{place}.sparsity.max")),
        "weight" if per.check(spec.get("per", "global"), f"{place}.per") == "weight" else "global",
        str(score.check(spec.get("score", default.score), f"{place}.score")),
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


def _flat(spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Setting name to what was written for it, in the order of the settings."""
    written = {name: spec[name] for name in ("importance", "repair") if name in spec}
    for section in _SECTIONS:
        inner = as_mapping(spec.get(section, {}), f"{place}.{section}")
        prefix = f"{section}."
        names = [name.removeprefix(prefix) for name in SETTINGS if name.startswith(prefix)]
        check_keys(inner, [name for name in names if "." not in name], f"{place}.{section}")
        for key, value in inner.items():
            if key in BY_OPTIMIZER and isinstance(value, Mapping) and not {"min", "max"} & {*value}:
                check_keys(value, OPTIMIZERS, f"{place}.{section}.{key}")
                written.update({f"{prefix}{key}.{name}": each for name, each in value.items()})
            else:
                written[prefix + key] = value
    return {name: written[name] for name in SETTINGS if name in written}


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


def _check_rewarm(fixed: Mapping[str, Value], varied: Sequence[Parameter], place: str) -> None:
    """Raise ConfigError where the rate may rise anew over a warm-up that is nowhere above 0."""
    values = {p.name: p.choices or (p.high,) for p in varied}
    values |= {name: (value,) for name, value in fixed.items()}
    if True in values.get(_REWARM, ()) and not any(values.get(_WARMUP, (1.0,))):
        raise ConfigError(
            f"{place}.{_REWARM} must be false where {place}.{_WARMUP} is 0: the rate rises anew "
            "over the steps of the warm-up · raise it, such as to 0.05"
        )
