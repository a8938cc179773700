"""What blocks count beside widths: settled by the models that the allocator makes of both.

Sensitivities are measured one item at a time, and the allocator adds them up. Sums over blocks and
sums over widths are wrong by different factors: in a ResNet-56 widths cost more together than
alone, in a text encoder blocks do (`results/depth/factors.md`). So the sensitivities of all blocks
are multiplied by the one factor whose models come out nearest to the dense model, at the limits of
the search: with another budget it is another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from autoprune._search.allocation.allocator import Allocator
from autoprune._search.plan import Plan
from autoprune.architecture import Architecture
from autoprune.pruning.sensitivity import Sensitivity

FACTORS = (1.0, 2.0, 0.5, 4.0, 0.25, 8.0, 0.125, 0.0625)  # of equally good ones the first
_LEAST = 1e-9  # smaller divergences count as equal


def balanced(
    sensitivity: Sensitivity, plan: Plan, divergence: Callable[[Architecture], float]
) -> Sensitivity:
    """The same with the increases of all blocks times `best_factor`, in place of any other.

    Nothing changes where no block may be dropped.
    """
    if not plan.space.most_dropped:
        return sensitivity
    return scaled(sensitivity, best_factor(sensitivity, plan, divergence))


def best_factor(
    sensitivity: Sensitivity, plan: Plan, divergence: Callable[[Architecture], float]
) -> float:
    """The best of `FACTORS`: the allocator's models have the least sum of log divergences.

    It makes one at each of `loads`; equal ones are built once. A divergence that is not finite is
    the worst.
    """
    tried_at = loads(plan)
    known: dict[Architecture, float] = {}

    def log_of(architecture: Architecture) -> float:
        if architecture not in known:
            value = divergence(architecture)
            known[architecture] = math.log(max(_LEAST, value)) if value < math.inf else math.inf
        return known[architecture]

    def total(factor: float) -> float:
        tried = scaled(sensitivity, factor)
        allocator = Allocator(plan.items, tried.at, plan.loads, effort=0)
        return sum(log_of(plan.space.architecture(allocator.at(load))) for load in tried_at)

    return min(FACTORS, key=total)


def loads(plan: Plan) -> tuple[float, float]:
    """The limits, and half-way from them to the dense model, by ratio.

    A model that is pruned far is near chance before it is trained, and says little of either
    choice; one that is pruned half as far says more.
    """
    dense = plan.load(plan.space.counts(Architecture()))
    return 1.0, math.sqrt(max(1.0, dense))


def scaled(sensitivity: Sensitivity, factor: float) -> Sensitivity:
    """The same with the increases of all blocks times this factor, in place of the one it has."""
    return replace(sensitivity, block_factor=factor)
