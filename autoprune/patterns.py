"""Sparsity patterns: which elements of a single weight may differ from zero.

A pattern is written as a sparsity, such as `"0.5"` (unstructured: that share of the elements is
zero, anywhere), or as N:M, such as `"2:4"`: at most N of each M consecutive inputs of an output
differ from zero. An incomplete last group of M is filled up with zeros, so it may keep N as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import ConfigError

DENSE, UNSTRUCTURED = "dense", "unstructured"
_NM = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)")
_SHARE = re.compile(r"0\.[0-9]+")
_DIGITS = 4  # of a sparsity

SCORES = ("lamp", "magnitude", "task")  # the first is the default
Per = Literal["global", "weight"]


def canonical(pattern: str) -> str:
    """The one way to write a pattern; ValueError for what is none.

    >>> canonical("0.50"), canonical("2:4")
    ('0.5', '2:4')
    """
    found = _NM.fullmatch(pattern) if isinstance(pattern, str) else None
    if found and int(found.group(1)) < int(found.group(2)):
        return pattern
    if isinstance(pattern, str) and _SHARE.fullmatch(pattern) and float(pattern) > 0.0:
        return pattern.rstrip("0")
    raise ValueError(
        f"must be a sparsity such as '0.5', or N:M with N < M such as '2:4', got {pattern!r}"
    )


def unstructured(sparsity: float) -> str | None:
    """The pattern of a sparsity in [0, 1), to four digits; None for the dense weight.

    >>> unstructured(0.33333), unstructured(0.00001)
    ('0.3333', None)
    """
    rounded = min(round(sparsity, _DIGITS), 1.0 - 10.0**-_DIGITS)
    return canonical(f"{rounded:.{_DIGITS}f}") if rounded > 0.0 else None


def of_groups(pattern: str) -> tuple[int, int] | None:
    """N and M; None for an unstructured pattern."""
    found = _NM.fullmatch(pattern)
    return (int(found.group(1)), int(found.group(2))) if found else None


def sparsity(pattern: str) -> float:
    """The share of zeros, of N:M where the inputs are a multiple of M.

    >>> sparsity("0.9"), sparsity("1:4")
    (0.9, 0.75)
    """
    groups = of_groups(pattern)
    return 1.0 - groups[0] / groups[1] if groups else float(pattern)


def sparsity_of(pattern: str, inputs: int) -> float:
    """The share of zeros in a weight with this many inputs.

    >>> sparsity_of("2:4", 8), sparsity_of("2:4", 6)
    (0.5, 0.33333333333333337)
    """
    groups = of_groups(pattern)
    if groups is None:
        return float(pattern)
    kept, size = groups
    whole, rest = divmod(inputs, size)
    return 1.0 - (whole * kept + min(rest, kept)) / max(1, inputs)


def partway(pattern: str, share: float) -> str | None:
    """The pattern with a share of the final zeros; None where no element is zero yet.

    Of N:M whole elements of each group.

    >>> partway("0.8", 0.5), partway("1:4", 0.7), partway("2:4", 0.1)
    ('0.4', '2:4', None)
    """
    groups = of_groups(pattern)
    if groups is None:
        return unstructured(share * float(pattern))
    kept, size = groups
    zeros = math.floor(share * (size - kept) + 0.5)
    return f"{size - zeros}:{size}" if zeros else None


def position_bits(pattern: str) -> float:
    """Bits an element that say where the zeros are (the entropy), if all places are as likely.

    >>> round(position_bits("0.5"), 3), round(position_bits("2:4"), 3)
    (1.0, 0.646)
    """
    groups = of_groups(pattern)
    if groups:
        kept, size = groups
        return math.log2(math.comb(size, kept)) / size
    zero = float(pattern)
    return -(zero * math.log2(zero) + (1.0 - zero) * math.log2(1.0 - zero))


@dataclass(frozen=True, slots=True)
class PatternSpace:
    """The patterns that a search may use (`patterns` in the space).

    `kinds` are `dense`, `unstructured` and N:M. The sparsity of `unstructured` lies in [`low`,
    `high`]: one for all weights, spread over them by a `score` of their elements (`per="global"`),
    or one for each weight. Scores are layer-adaptive magnitudes (`lamp`), plain ones, or the task's
    `sparsity_score`. Kinds are chosen for the whole model, or likewise for each weight.
    """

    kinds: tuple[str, ...] = (DENSE,)
    low: float = 0.0
    high: float = 0.9
    per: Per = "global"
    score: str = SCORES[0]

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.high < 1.0:
            raise ConfigError(
                "space.patterns.sparsity must hold 0 <= min <= max < 1, "
                f"got min={self.low:g}, max={self.high:g}"
            )

    @property
    def is_dense(self) -> bool:
        """Whether no candidate has a pattern."""
        return self.kinds == (DENSE,)


@dataclass(frozen=True, slots=True)
class WeightCurve:
    """A weight that can have a pattern.

    `curve` is its sparsity where that of all weights together is k / (len - 1), ascending from 0;
    `elements` and `inputs` are the dense weight's, `blocks` those that it is dropped with.
    """

    elements: int
    inputs: int
    curve: tuple[float, ...]
    blocks: tuple[str, ...] = ()

    def at(self, sparsity: float) -> float:
        """This weight's sparsity where all weights together have `sparsity`."""
        place = sparsity * (len(self.curve) - 1)
        left = min(int(place), len(self.curve) - 2)
        return self.curve[left] + (place - left) * (self.curve[left + 1] - self.curve[left])


def overall(weights: Mapping[str, WeightCurve], patterns: Mapping[str, str]) -> float:
    """The share of zeros over all these weights, in the dense model's sizes."""
    total = sum(weight.elements for weight in weights.values())
    zeros = sum(
        weight.elements * sparsity_of(patterns[name], weight.inputs)
        for name, weight in weights.items()
        if name in patterns
    )
    return zeros / total if total else 0.0
