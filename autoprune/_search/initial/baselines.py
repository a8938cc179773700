"""Models to compare a search with, trained like its trials: uniform and random widths."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from autoprune._search.initial.proposals import Proposal
from autoprune._search.initial.seeding import LEVELS, recipe, uniform_below
from autoprune._search.plan import Plan
from autoprune._search.sampling.projection import project
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.record import BASELINE
from autoprune.training.rng import derive

_HALVINGS = 12
_ATTEMPTS = 8  # draws for each of the random ones: a small space has few


def baselines(
    plan: Plan,
    *,
    uniform: int,
    random: int,
    known: Collection[str],
    reused: Collection[str] = (),
) -> list[Proposal]:
    """So many of each kind within the budget, less those whose candidate is `known` by its key.

    Uniform ratios: as large as the budget allows, then smaller ones, without the architectures that
    are `reused`, by their keys. Random ones use the budget up.
    """
    start = recipe(plan.space)
    nearest = project(start, plan)
    found: dict[str, Proposal] = {}
    if nearest is not None and uniform:
        below = uniform_below(plan, start, nearest, max(uniform, LEVELS))
        distinct = {candidate.key: candidate for candidate in [nearest, *below]}.values()
        fresh = [it for it in distinct if it.architecture.key not in reused]
        for number, candidate in enumerate(fresh[:uniform]):
            found[candidate.key] = Proposal(candidate, f"{BASELINE}uniform-{number}")
    random = random if plan.space.per_group else 0
    more = len(found) + random
    for attempt in range(_ATTEMPTS * random):
        drawn = _random(plan, start, attempt)
        if len(found) >= more or drawn is None:
            break
        number = len(found) - more + random
        found.setdefault(drawn.key, Proposal(drawn, f"{BASELINE}random-{number}"))
    return [proposal for key, proposal in found.items() if key not in known]


def _random(plan: Plan, start: Candidate, number: int) -> Candidate | None:
    """Ratios drawn evenly from each group's range, all scaled so that the budget is used up."""
    rng = np.random.default_rng(derive(plan.seed, "random baseline", number))
    space = plan.space
    ranges = {name: space.ratio_range(name) for name in space.widths}
    drawn = {
        name: (low, float(rng.uniform(0.0, high - low))) for name, (low, high) in ranges.items()
    }

    def at(share: float) -> Architecture:
        return space.at_ratios({name: low + share * more for name, (low, more) in drawn.items()})

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if plan.fits(space.resized(start, at(middle))):
            high = middle
        else:
            low = middle
    return project(space.resized(start, at(high)), plan)
