"""The first candidates of a search, before Optuna has seen anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autoprune.candidate import Candidate
from autoprune.record import UNIFORM
from autoprune.search.knapsack import Damage, Knapsack
from autoprune.search.plan import Plan
from autoprune.search.projection import project
from autoprune.search.searcher import Proposal
from autoprune.space import SearchSpace, Value

LEVELS = 4

_PREFERRED: dict[str, Value] = {
    "importance": "l2",
    "repair": True,
    "schedule.kind": "one_shot",
    "schedule.begin": 0.0,
    "schedule.end": 0.3,
    "schedule.steps": 3,
    "recovery.lr": 0.02,
    "recovery.distillation": 0.5,
    "recovery.regulariser": 0.0,
}


def recipe(space: SearchSpace, sizes: Mapping[str, int]) -> Candidate:
    """The candidate that removes the least, with the usual recipe as far as the space allows."""
    params: dict[str, Value] = {}
    for parameter in space.parameters(sizes):
        wanted = _PREFERRED.get(parameter.name, space.min_ratio)
        known = wanted in parameter.choices if parameter.choices else True
        params[parameter.name] = parameter.clip(wanted) if known else parameter.choices[0]
    return space.candidate_from(params, sizes)


def seeds(plan: Plan, damage: Damage | None = None) -> list[Proposal]:
    """Candidates within the budget to begin with; none twice.

    Uniform ratios at `LEVELS` costs from the budget down towards the smallest model, the first
    being the nearest to the dense model that the budget allows. With `damage`, after each of them
    the allocation that does the least damage (see `Knapsack`): the first for the whole budget,
    which uniform ratios seldom use up, the others at the uniform one's cost.
    """
    start = recipe(plan.space, plan.sizes)
    found: dict[str, Proposal] = {}
    knapsack: Knapsack | None = None
    if damage is not None and plan.space.per == "group":
        options = {name: plan.space.choices(name, plan.sizes) for name in plan.sizes}
        knapsack = Knapsack(options, damage, plan.load)
    for level in range(LEVELS):
        uniform = _uniform(plan, start, level)
        if uniform is None:
            continue
        found.setdefault(uniform.key, Proposal(uniform, f"{UNIFORM}-{level}"))
        if knapsack is not None:
            load = plan.load(plan.space.kept(uniform, plan.sizes)) if level else 1.0
            least = plan.resized(uniform, knapsack.at(load))
            if plan.fits(least):
                found.setdefault(least.key, Proposal(least, f"seed:knapsack-{level}"))
    return list(found.values())


def _uniform(plan: Plan, start: Candidate, level: int) -> Candidate | None:
    """The uniform candidate `level` parts of the way from the budget to the smallest model."""
    nearest = project(start, plan)
    if nearest is None:
        return None
    low = max(nearest.ratios.values(), default=0.0)
    ratio = low + (plan.space.max_ratio - low) * level / LEVELS
    if level == 0:
        return nearest
    ratios = plan.space.effective(dict.fromkeys(plan.sizes, ratio), plan.sizes)
    return project(replace(start, ratios=ratios), plan)
