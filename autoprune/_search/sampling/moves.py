"""New candidates from the front: shift units between groups, cross over, fill gaps."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune._search.allocation.allocator import Allocator, Choice, Sensitivity
from autoprune._search.plan import Plan
from autoprune._search.sampling.surrogate import place_of, value_at
from autoprune.candidate import Candidate
from autoprune.cost_fields import is_cost
from autoprune.space.search_space import RATIO
from autoprune.space.settings import Parameter, Value

GAP = "gap"  # the kind of move that goes where the front has no member

_TRIES = 6  # shifts drawn, of which the least sensitive is proposed
_HALVINGS = 10
_STEP = 0.2  # standard deviation of a changed setting, its range being 1
_FACTOR = 0.35  # standard deviation of the log factor by which a group of a neighbor changes


@dataclass(frozen=True, slots=True)
class Parent:
    """A member of the front, and its share of the dense model's cost."""

    candidate: Candidate
    share: float


class Moves:
    """Proposes candidates around the members of a front; it does not predict their metric.

    `sensitivity(group, width)` is the loss of quality when one group alone is pruned to `width`
    units; without it, shifts are random and gaps are filled by scaling the nearest member. Equal
    generators give equal moves.
    """

    def __init__(self, plan: Plan, sensitivity: Sensitivity | None = None) -> None:
        """Nothing is computed before the first move."""
        self._plan = plan
        costs = [o.name for o in plan.objectives if is_cost(o.name)]
        self._cost = (costs or list(plan.budget.fields))[0]
        self._choices = {name: plan.space.choices(name) for name in plan.space.items}
        self._allocator: Allocator | None = None
        if sensitivity is not None and plan.space.per_group:
            self._allocator = Allocator(plan.items, sensitivity, self._shares, effort=0)
        self._free = [name for name, units in self._choices.items() if len(units) > 1]
        self._recipe = list(plan.space.varied)
        self._parents: dict[str, Parent] = {}

    def share(self, counts: Mapping[str, int]) -> float:
        """The cost of such a model, over the dense one's."""
        price = self._plan.price(self._plan.space.architecture(counts), (self._cost,))
        return price.get(self._cost) / self._plan.dense.get(self._cost)

    def _shares(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._plan.shares(counts, self._cost)

    def parent(self, candidate: Candidate) -> Parent:
        """A candidate with its share."""
        found = self._parents.get(candidate.key)
        if found is None:
            share = self.share(self._plan.space.counts(candidate.architecture))
            found = self._parents[candidate.key] = Parent(candidate, share)
        return found

    def propose(
        self, rng: np.random.Generator, parents: Sequence[Parent]
    ) -> tuple[str, Candidate] | None:
        """(kind of move, candidate, possibly over budget); None where this draw gave no candidate.

        `parents` are in the order of rising cost, at least one.
        """
        kind = str(rng.choice(self._kinds(parents)))
        parent = parents[int(rng.integers(len(parents)))]
        if kind == "recipe":
            return kind, self._settings(rng, parent.candidate, always=True)
        if not self._plan.space.per_group:
            return kind, self._jitter(rng, parent.candidate)
        counts = self._counts(parent)
        if kind == "cross":
            other = parents[int(rng.integers(len(parents)))]
            low, high = sorted((parent.share, other.share))
            mixed = {
                n: k if rng.random() < 0.5 else self._counts(other)[n] for n, k in counts.items()
            }
            counts = self._to_share(mixed, float(rng.uniform(low, high)))
        elif kind == GAP:
            share = self._gap(rng, parents)
            parent = min(parents, key=lambda p: abs(p.share - share))
            counts = self._at(share, self._counts(parent))
            if rng.random() < 0.5:
                counts = self._shifted(rng, counts) or counts
        else:
            shifted = self._shifted(rng, counts)
            if shifted is None:
                return None
            counts = shifted
        child = self._plan.resized(parent.candidate, counts)
        return kind, self._settings(rng, child, always=False)

    def neighbor(self, rng: np.random.Generator, candidate: Candidate) -> Candidate | None:
        """One group larger or smaller, the others scaled so that the total cost is about the same.

        None where this draw gave no candidate.
        """
        if len(self._free) < 2 or not self._plan.space.per_group:
            return None
        counts = self._plan.space.counts(candidate.architecture)
        name = str(rng.choice(self._free))
        units, here = self._choices[name], self._place(name, counts[name])
        factor = math.exp(rng.normal(0.0, _FACTOR))
        place = self._place(name, round(counts[name] * factor))
        if place == here:
            place = here + (1 if factor > 1.0 else -1)
        if not 0 <= place < len(units):
            return None
        changed = self._to_share({**counts, name: units[place]}, self.share(counts), but=name)
        return self._plan.resized(candidate, changed)

    def _kinds(self, parents: Sequence[Parent]) -> list[str]:
        kinds = ["recipe"] if self._recipe else []
        if not self._free:
            return kinds or ["shift"]
        shifts = ["shift", "shift"] if len(self._free) > 1 else []
        return [*kinds, *shifts, GAP, *(["cross"] if len(parents) > 1 else [])]

    def _counts(self, parent: Parent) -> Choice:
        return self._plan.space.counts(parent.candidate.architecture)

    def _shifted(self, rng: np.random.Generator, counts: Choice) -> Choice | None:
        """Units shifted to another group at no more cost: the least sensitive of several draws."""
        found = [changed for _ in range(_TRIES) if (changed := self._shift(rng, counts))]
        if not found or self._allocator is None:
            return found[0] if found else None
        return min(found, key=self._allocator.total)

    def _shift(self, rng: np.random.Generator, counts: Choice) -> Choice | None:
        if len(self._free) < 2:
            return None
        giver, taker = (str(name) for name in rng.choice(self._free, 2, replace=False))
        given = self._place(giver, counts[giver]) - int(rng.integers(1, 4))
        if given < 0:
            return None
        before = self.share(counts)
        changed = {**counts, giver: self._choices[giver][given]}
        units = self._choices[taker]
        low, high = self._place(taker, counts[taker]), len(units) - 1
        first = low
        while low < high:  # the largest width of the taker at the previous cost
            middle = (low + high + 1) // 2
            fits = self.share({**changed, taker: units[middle]}) <= before * (1.0 + 1e-9)
            low, high = (middle, high) if fits else (low, middle - 1)
        return {**changed, taker: units[low]} if low > first else None

    def _place(self, name: str, count: int) -> int:
        units = self._choices[name]
        return min(bisect.bisect_left(units, count), len(units) - 1)

    def _to_share(self, counts: Choice, share: float, but: str | None = None) -> Choice:
        """Widths scaled towards the smallest or the dense model until it costs at most `share`.

        Blocks and `but` are unchanged; if that is too expensive, the others are minimal.
        """
        smaller = self.share(counts) > share
        widths = self._plan.space.widths
        ends = {
            name: units[0 if smaller else -1] if name in widths and name != but else counts[name]
            for name, units in self._choices.items()
        }

        def changed(part: float) -> Choice:
            wanted = {name: units + part * (ends[name] - units) for name, units in counts.items()}
            return self._plan.space.counts(self._plan.space.architecture(wanted))

        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            if (self.share(changed(middle)) > share) == smaller:
                low = middle
            else:
                high = middle
        return changed(high if smaller else low)

    def _gap(self, rng: np.random.Generator, parents: Sequence[Parent]) -> float:
        """A random share between members of the front; wide gaps are more likely."""
        least = self.share({name: units[0] for name, units in self._choices.items()})
        ends = sorted({least, self._limit(), *(p.share for p in parents)})
        if len(ends) < 2:
            return ends[0]
        widths = np.diff(ends)
        place = int(rng.choice(len(widths), p=widths / widths.sum()))
        return float(rng.uniform(ends[place], ends[place + 1]))

    def _limit(self) -> float:
        """The budget's limit on the first cost, over the dense one's; 1 where it has none."""
        return min(1.0, self._plan.limit(self._cost) / self._plan.dense.get(self._cost))

    def _at(self, share: float, nearest: Choice) -> Choice:
        """An allocation of at most that share; by the allocator if sensitivities are known."""
        if self._allocator is None:
            return self._to_share(nearest, share)
        return self._allocator.about(share)

    def _jitter(self, rng: np.random.Generator, candidate: Candidate) -> Candidate:
        """A small change of the single ratio of all groups."""
        fitted, space = self._plan.space, self._plan.space.space
        params = fitted.params(candidate)
        if RATIO in params:
            changed = float(params[RATIO]) + rng.normal(0.0, _STEP) * (
                space.max_ratio - space.min_ratio
            )
            params[RATIO] = min(max(changed, space.min_ratio), space.max_ratio)
        return self._settings(rng, fitted.candidate(params), always=False)

    def _settings(
        self, rng: np.random.Generator, candidate: Candidate, *, always: bool
    ) -> Candidate:
        """The candidate with some settings of schedule and recovery changed; `always` at least one.

        Without `always`, half of the candidates are unchanged.
        """
        if not self._recipe or (not always and rng.random() < 0.5):
            return candidate
        params = some_changed(rng, self._recipe, self._plan.space.params(candidate))
        made = self._plan.space.draft(params)
        return self._plan.space.resized(made, candidate.architecture)


def some_changed(
    rng: np.random.Generator, parameters: Sequence[Parameter], params: Mapping[str, Value]
) -> dict[str, Value]:
    """The values with those of at least one of the `parameters` changed, of two on average."""
    found = dict(params)
    chosen = [p for p in parameters if rng.random() < 2.0 / (1.0 + len(parameters))]
    for parameter in chosen or [parameters[int(rng.integers(len(parameters)))]]:
        found[parameter.name] = _changed(rng, parameter, found[parameter.name])
    return found


def random_values(rng: np.random.Generator, parameters: Sequence[Parameter]) -> dict[str, Value]:
    """Values anywhere between the ends of their parameters."""
    return {parameter.name: _random(rng, parameter) for parameter in parameters}


def _random(rng: np.random.Generator, parameter: Parameter) -> Value:
    if parameter.choices:
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    return value_at(parameter, float(rng.random()))


def _changed(rng: np.random.Generator, parameter: Parameter, value: Any) -> Value:
    if parameter.choices:
        return _random(rng, parameter)
    place = place_of(parameter, float(value)) + float(rng.normal(0.0, _STEP))
    return value_at(parameter, min(1.0, max(0.0, place)))
