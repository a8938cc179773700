"""The patterns of a search applied to a model's weights: from sampled values, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from autoprune.architecture import Architecture
from autoprune.patterns import (
    DENSE,
    UNSTRUCTURED,
    PatternSpace,
    WeightCurve,
    of_groups,
    sparsity,
    unstructured,
)
from autoprune.space.settings import Parameter, Value

PATTERN, SPARSITY = "pattern", "sparsity"
_GRID = 100  # sparsities are multiples of 1 / _GRID


@dataclass(frozen=True, slots=True)
class FittedPatterns:
    """The patterns that a `space` allows for these `weights`.

    With `per="global"` one kind holds for all weights, and one sparsity is spread over them by
    their curves; else each weight has its own. A weight with fewer than M inputs has no N:M.

    >>> weights = {"a": WeightCurve(8, 4, (0.0, 0.2, 1.0)), "b": WeightCurve(8, 4, (0.0, 0.8, 1.0))}
    >>> fitted = FittedPatterns(PatternSpace(("dense", "unstructured", "2:4")), weights)
    >>> [parameter.name for parameter in fitted.parameters]
    ['pattern', 'sparsity']
    >>> fitted.patterns({"pattern": "unstructured", "sparsity": 0.5})
    {'a': '0.2', 'b': '0.8'}
    """

    space: PatternSpace
    weights: Mapping[str, WeightCurve]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The distributions of kind and sparsity, as far as they vary."""
        return tuple(each for end in self._ends for each in self._of(end))

    def patterns(
        self, params: Mapping[str, Value], dropped: Collection[str] = ()
    ) -> dict[str, str]:
        """The patterns of sampled values, without those of weights in dropped blocks."""
        found = {}
        for name, weight in self.weights.items():
            if set(weight.blocks).isdisjoint(dropped):
                pattern = self._pattern(name, weight, params)
                if pattern is not None:
                    found[name] = pattern
        return found

    def params(self, architecture: Architecture) -> dict[str, Value]:
        """Values that give an architecture's patterns; the nearest where there are none.

        Values that change nothing are the first ones.
        """
        found: dict[str, Value] = {}
        for end in self._ends:
            own = [end.removeprefix(".")] if end else list(self.weights)
            there = {n: architecture.patterns[n] for n in own if n in architecture.patterns}
            for parameter in self._of(end):
                if parameter.choices:
                    found[parameter.name] = self._kind(there)
                else:
                    found[parameter.name] = parameter.clip(self._sparsity(there))
        return found

    def allows(self, patterns: Mapping[str, str]) -> bool:
        """Whether each pattern is of a kind that the space has, of one of its weights."""
        kinds = {UNSTRUCTURED if of_groups(p) is None else p for p in patterns.values()}
        return kinds <= set(self.space.kinds) and set(patterns) <= set(self.weights)

    def sparser(self, params: Mapping[str, Value], share: float) -> dict[str, Value]:
        """The same with every sparsity moved by a share of the way to the highest."""
        rest = {n: float(v) for n, v in params.items() if n.partition(".")[0] == SPARSITY}
        return {**params, **{n: v + share * (self.space.high - v) for n, v in rest.items()}}

    def sparsest(self, dropped: Collection[str] = ()) -> dict[str, str]:
        """The patterns with the most zeros over all weights."""
        kinds = [k for k in self.space.kinds if k != DENSE]
        zeros = {k: self.space.high if k == UNSTRUCTURED else sparsity(k) for k in kinds}
        best = max(zeros, key=lambda kind: zeros[kind], default=DENSE)
        return self.patterns(self.uniform(best, self.space.high), dropped)

    def uniform(self, kind: str, sparsity: float) -> dict[str, Value]:
        """Values of one kind and sparsity for all weights."""
        kinds: dict[str, Value] = {f"{PATTERN}{end}": kind for end in self._ends}
        return {**kinds, **{f"{SPARSITY}{end}": sparsity for end in self._ends}}

    @property
    def _ends(self) -> tuple[str, ...]:
        """How the names of parameters end: nothing, or with each weight's name."""
        if self.space.is_dense or not self.weights:
            return ()
        return ("",) if self.space.per == "global" else tuple(f".{name}" for name in self.weights)

    def _of(self, end: str) -> Iterator[Parameter]:
        space = self.space
        if len(space.kinds) > 1:
            yield Parameter(f"{PATTERN}{end}", choices=space.kinds)
        if UNSTRUCTURED in space.kinds and space.low < space.high:
            yield Parameter(f"{SPARSITY}{end}", space.low, space.high)

    def _pattern(self, name: str, weight: WeightCurve, params: Mapping[str, Value]) -> str | None:
        end = "" if self.space.per == "global" else f".{name}"
        kind = str(params.get(f"{PATTERN}{end}", self.space.kinds[0]))
        if kind == DENSE:
            return None
        if kind != UNSTRUCTURED:
            groups = of_groups(kind)
            return kind if groups and weight.inputs >= groups[1] else None
        wanted = float(params.get(f"{SPARSITY}{end}", self.space.low))
        wanted = round(min(max(wanted, self.space.low), self.space.high) * _GRID) / _GRID
        return unstructured(wanted if end else weight.at(wanted))

    def _kind(self, patterns: Mapping[str, str]) -> str:
        kinds = self.space.kinds
        groups = [pattern for pattern in patterns.values() if of_groups(pattern)]
        wanted = groups[0] if groups else UNSTRUCTURED if patterns else DENSE
        if wanted == DENSE and DENSE not in kinds:
            wanted = UNSTRUCTURED
        return wanted if wanted in kinds else kinds[0]

    def _sparsity(self, patterns: Mapping[str, str]) -> float:
        """The overall sparsity that gives these; the lowest where it does not count."""
        shares = {n: float(p) for n, p in patterns.items() if of_groups(p) is None}
        if not shares:
            return self.space.low
        if self.space.per == "weight":
            return next(iter(shares.values()))
        known = [(self.weights[n], share) for n, share in shares.items() if n in self.weights]
        wanted = sum(weight.elements * share for weight, share in known)
        weights = [weight for weight, _ in known]  # those that are not there have no say
        low, high = 0, _GRID
        while low < high:
            middle = (low + high) // 2
            enough = _zeros(weights, middle / _GRID) >= wanted * (1.0 - 1e-9)
            low, high = (low, middle) if enough else (middle + 1, high)
        return low / _GRID


def _zeros(weights: Collection[WeightCurve], sparsity: float) -> float:
    """The zeros in these weights at an overall sparsity, in the digits of their patterns."""
    return sum(w.elements * float(unstructured(w.at(sparsity)) or 0.0) for w in weights)
