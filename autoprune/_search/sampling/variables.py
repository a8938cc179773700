"""What Optuna samples instead of one ratio for each group: a few variables of the allocator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune._search.allocation.allocator import Allocator, Choice, Sensitivity
from autoprune._search.plan import Plan
from autoprune.architecture import BLOCK, FLOAT32, IN_FLOAT, Architecture
from autoprune.candidate import Candidate
from autoprune.space.fitted import PRECISION
from autoprune.space.settings import Parameter, Value

COST = "cost"
STAGES = ("early", "middle", "late")
DEPTHS = tuple(f"depth.{stage}" for stage in STAGES)
_OFFSET = "offset."
_MOST = 2.0  # of an offset: its factor is between 1/7.4 and 7.4
_PER_WIDTH = 4.0  # offset that is taken for a natural log unit of width more than expected


@dataclasses.dataclass(frozen=True, slots=True)
class Aims:
    """The costs that good models are wanted at: the budget and its levels, where it has any.

    `shares` are those of the first limit, ascending, the last is 1; none without levels. In the
    upper half of the way (in logarithms) from one to the next a drawn share stands for the next
    itself, with the other limits whole: a model a little below a wanted cost is of less use than
    one at it. In the lower half it is taken as it is, so that the front has members between.
    Without levels a share is of every limit, else the other limits stay at or above their `floors`,
    the shares of the smallest model.
    """

    shares: tuple[float, ...]
    floors: tuple[float, ...]  # of each limit

    @staticmethod
    def of(plan: Plan) -> Aims:
        """The budget of a plan, and its levels."""
        top = plan.budget.limits[0].resolve(plan.dense)
        levels = {level.limits[0].resolve(plan.dense) / top for level in plan.levels}
        space = plan.space
        least = space.architecture({name: space.choices(name)[0] for name in space.items})
        return Aims(tuple(sorted({*levels, 1.0})) if levels else (), shares_of(plan, least))

    @property
    def least(self) -> float:
        """The lowest share that is drawn: half a step (in logarithms) below the lowest level.

        At least by a factor of the square root of 2. The smallest model's where that is larger, or
        where there are no levels.
        """
        if not self.shares:
            return max(self.floors)
        step = math.sqrt(min(0.5, self.shares[0] / self.shares[1]))
        return max(self.floors[0], self.shares[0] * step)

    def limits(self, share: float) -> tuple[float, ...]:
        """The share of each limit that a drawn share stands for.

        >>> aims = Aims((0.25, 1.0), (0.1, 0.4))
        >>> aims.limits(0.2), aims.limits(0.3), aims.limits(0.6)
        ((0.25, 1.0), (0.3, 0.4), (1.0, 1.0))
        """
        others = self.floors[1:]
        if not self.shares:
            return (share,) * len(self.floors)
        aim = min((other for other in self.shares if other >= share), default=share)
        below = max((other for other in self.shares if other < share), default=0.0)
        if share < math.sqrt(below * aim):
            return (share, *(max(share, floor) for floor in others))
        return (aim, *(1.0 for _ in others))

    def share(self, used: Sequence[float]) -> float:
        """The drawn share that a model with these shares of the limits comes near to."""
        if not self.shares:
            return max(used)
        pairs = zip(used, self.limits(used[0]), strict=True)
        return used[0] if all(share <= most for share, most in pairs) else max(used)


def shares_of(plan: Plan, architecture: Architecture) -> tuple[float, ...]:
    """The share of each limit that an architecture uses, with the margin."""
    over = plan.over(plan.price(architecture, plan.budget.fields))
    return tuple(1.0 + over[limit.field] for limit in plan.budget.limits)


class Allocated:
    """A share of the budget, offsets of the sensitivities, precision, schedule and recovery.

    The allocator turns the first two into widths and dropped blocks within the limits: `cost` is
    the share of the limits that may be used (see `Aims`), and the sensitivities of the groups in
    the first, second and last third of the model, and those of the blocks likewise
    (`depth.early` ...), are multiplied by e to the power of their `offset`. So the sampler decides
    what interacts, in few dimensions whatever the size of the model. A candidate from elsewhere has
    no exact values; it gets those of its cost, with offsets by how much wider each third is than
    the allocator would have it.
    """

    def __init__(self, plan: Plan, sensitivity: Sensitivity) -> None:
        """`sensitivity(item, option)` as the allocator takes it, of every item of the space."""
        self._plan, self._sensitivity = plan, sensitivity
        self._parts = _parts(plan)
        self._aims = Aims.of(plan)
        self._least = min(0.99, max(1e-6, self._aims.least))
        self._reference: dict[tuple[object, ...], Allocator] = {}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The share of the budget, the offsets, and what else varies."""
        used = set(self._parts.values())
        names = [name for name in (*STAGES, *DEPTHS) if name in used]
        offsets = (Parameter(f"{_OFFSET}{name}", -_MOST, _MOST) for name in names)
        space = self._plan.space.space
        several = len(space.precisions) > 1
        precision = (Parameter(PRECISION, choices=space.precisions),) if several else ()
        cost = Parameter(COST, self._least, 1.0, log=True)
        return (cost, *offsets, *precision, *self._plan.space.varied)

    def candidate(self, params: Mapping[str, Value]) -> Candidate:
        """The candidate that the allocator makes of these values."""
        start = self._plan.space.draft(params)
        allocator = self._allocator(start.architecture, params)
        return self._plan.resized(start, allocator.at(self._aims.limits(float(params[COST]))))

    def params(self, candidate: Candidate) -> dict[str, Value]:
        """The values that come near to a candidate."""
        space = self._plan.space
        counts = space.counts(candidate.architecture)
        used = self._aims.share(shares_of(self._plan, candidate.architecture))
        load = min(1.0, max(self._least, used))
        expected = self._expected(candidate.architecture).about(load)
        found: dict[str, Value] = {COST: load, **space.settings(candidate)}
        for part in set(self._parts.values()):
            found[f"{_OFFSET}{part}"] = self._offset(part, counts, expected)
        if len(space.space.precisions) > 1:
            found[PRECISION] = candidate.architecture.precision
        return {parameter.name: found[parameter.name] for parameter in self.parameters}

    def _allocator(self, there: Architecture, params: Mapping[str, Value]) -> Allocator:
        """The allocator for the precision and the patterns of an architecture."""
        factors = {
            item: math.exp(float(params.get(f"{_OFFSET}{part}", 0.0)))
            for item, part in self._parts.items()
        }

        def scaled(item: str, option: int) -> float:
            return factors.get(item, 1.0) * self._sensitivity(item, option)

        option = (int(there.precision == FLOAT32),)
        share = self._plan.file_share(there.patterns)
        items = [
            dataclasses.replace(item, options=option) if item.name == IN_FLOAT else item
            for item in self._plan.items
        ]
        return Allocator(items, scaled, lambda rows: self._plan.loads(rows, share), effort=0)

    def _expected(self, there: Architecture) -> Allocator:
        """The allocator without offsets, which remembers what it has found."""
        key = (there.precision, tuple(there.patterns.items()))
        if key not in self._reference:
            self._reference[key] = self._allocator(there, {})
        return self._reference[key]

    def _offset(self, part: str, counts: Choice, expected: Choice) -> float:
        items = [item for item, its in self._parts.items() if its == part]
        if part in DEPTHS:
            more = sum(counts[item] - expected[item] for item in items) / len(items)
        else:
            more = float(np.mean([math.log(counts[i] / expected[i]) for i in items]))
        return min(_MOST, max(-_MOST, _PER_WIDTH * more))


def _parts(plan: Plan) -> dict[str, str]:
    """Item -> the offset that its sensitivity has; items that cannot vary have none."""
    free = [name for name in plan.space.items if len(plan.space.choices(name)) > 1]
    widths = [name for name in free if name in plan.space.widths]
    blocks = [name for name in free if name.startswith(BLOCK)]
    return {**_thirds(widths, STAGES), **_thirds(blocks, DEPTHS)}


def _thirds(names: Sequence[str], parts: Sequence[str]) -> dict[str, str]:
    return {name: parts[place * len(parts) // len(names)] for place, name in enumerate(names)}
