"""Limits on a task's metrics: `">= 0.90"`, `"<= 0.3"`, `"drop <= 1 pt"`, `"drop <= 1 %"`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import ConfigError

Kind = Literal[">=", "<=", "drop", "relative drop"]
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_FORM = re.compile(rf"(drop\s*)?(>=|<=)\s*({_NUMBER})\s*(%|pts?)?")
PATTERN = rf"^\s*([<>]=\s*{_NUMBER}\s*%?|drop\s*<=\s*{_NUMBER}\s*(%|pts?)?)\s*$"  # of all forms
_FORMS = "'>= 0.90', '<= 0.3', 'drop <= 1 pt' (0.01 of the metric) or 'drop <= 1 %' (of dense)"


@dataclass(frozen=True, slots=True)
class QualityLimit:
    """A limit on one metric, absolute or relative to the dense model's value.

    `drop` is by how much the metric may be worse than the dense model's, in its own unit;
    `relative drop` the same as a share of the dense model's value.
    """

    metric: str
    kind: Kind
    value: float

    @property
    def is_relative(self) -> bool:
        """Whether it needs the dense model's value."""
        return self.kind not in (">=", "<=")

    def bound(self, dense: float, maximize: bool) -> float:
        """The worst value that is within the limit.

        >>> QualityLimit("accuracy", "relative drop", 0.01).bound(0.9, maximize=True)
        0.891
        """
        if not self.is_relative:
            return self.value
        drop = self.value * (abs(dense) if self.kind == "relative drop" else 1.0)
        return dense - drop if maximize else dense + drop

    def violation(self, value: float, dense: float, maximize: bool) -> float:
        """By how much a value is beyond the limit, in the metric's unit: above 0 is too bad."""
        least = self.kind == ">=" or (self.kind != "<=" and maximize)
        bound = self.bound(dense, maximize)
        return bound - value if least else value - bound

    def __str__(self) -> str:
        if self.kind == "relative drop":
            return f"{self.metric} at most {100 * self.value:.4g} % worse than dense"
        if self.kind == "drop":
            return f"{self.metric} at most {self.value:.4g} worse than dense"
        return f"{self.metric} {self.kind} {self.value:.4g}"


def parse_quality(metric: str, text: object, place: str) -> QualityLimit:
    """Read a limit; raises ConfigError that says the forms.

    `1 pt` is a percentage point, 0.01; `%` after `>=` or `<=` divides by 100 too.

    >>> parse_quality("accuracy", "drop <= 1 pt", "quality")
    QualityLimit(metric='accuracy', kind='drop', value=0.01)
    """
    found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or (found.group(1) and found.group(2) == ">="):
        raise ConfigError(f"{place}: cannot read {text!r} · write {_FORMS}")
    drop, sign, number, unit = found.groups()
    value = float(number) / (100.0 if unit else 1.0)
    if drop:
        return QualityLimit(metric, "relative drop" if unit == "%" else "drop", value)
    if unit and unit != "%":
        raise ConfigError(f"{place}: {text!r}: points are for a drop · write {_FORMS}")
    return QualityLimit(metric, ">=" if sign == ">=" else "<=", value)


def parse_qualities(spec: Mapping[str, object], place: str = "quality") -> tuple[QualityLimit, ...]:
    """One limit, or a list of them, for each metric."""
    return tuple(
        parse_quality(metric, text, f"{place}.{metric}")
        for metric, texts in spec.items()
        for text in (texts if isinstance(texts, list | tuple) else [texts])
    )


def tells_nothing(value: float, constant: float, *, maximize: bool, samples: int | None) -> bool:
    """Whether a metric is hardly better than `constant`, what a constant output has.

    Values in [0, 1] must differ by two standard errors of a share of the `samples`.

    >>> tells_nothing(0.51, 0.5, maximize=True, samples=1000)
    True
    >>> tells_nothing(0.54, 0.5, maximize=True, samples=1000)
    False
    """
    is_share = samples and min(value, constant) >= 0.0 and max(value, constant) <= 1.0
    error = math.sqrt(constant * (1.0 - constant) / samples) if is_share and samples else 0.0
    return (value - constant if maximize else constant - value) <= 2.0 * error


def check_qualities(
    limits: Iterable[QualityLimit], dense: Mapping[str, float], metric: str
) -> None:
    """Raise ConfigError for a metric that `evaluate` does not give, or a limit without sense.

    That is a drop that allows anything, or a share above 1, such as an accuracy of 90.

    `dense` are the dense model's metrics; of these only the task's `metric` has a direction.
    """
    for limit in limits:
        if limit.metric not in dense:
            near = difflib.get_close_matches(limit.metric, list(dense), n=1)
            hint = f"nearest: {near[0]}" if near else f"known: {', '.join(dense)}"
            raise ConfigError(f"quality.{limit.metric} is no metric of this task · {hint}")
        if limit.is_relative and limit.metric != metric:
            raise ConfigError(
                f"quality.{limit.metric}: a drop needs to know what is better, and only {metric} "
                "has a direction · write '>= ...' or '<= ...'"
            )
        value = dense[limit.metric]
        if limit.kind == "drop" and 0.0 < value <= 1.0 <= limit.value:
            raise ConfigError(
                f"quality, recommend: a drop of {limit.value:g} allows any {limit.metric} (dense: "
                f"{value:.4g}) · write 'drop <= 1 %' (of dense) or 'drop <= 1 pt' (0.01)"
            )
        if limit.kind == ">=" and 0.0 <= value <= 1.0 < limit.value:
            raise ConfigError(
                f"quality.{limit.metric}: no model has {limit}, the dense one has {value:.4g} · "
                f"write '>= {limit.value / 100:.4g}' or '>= {limit.value:.4g} %'"
            )
