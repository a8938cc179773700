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

    Uniform ratios for the budget and each of the plan's levels; where it has none, at `LEVELS`
    costs from the budget down towards the smallest model, the first being the nearest to the dense
    model that the budget allows. With `damage`, after each of them the allocation that does the
    least damage (see `Knapsack`): for the whole budget or level, which uniform ratios seldom use
    up, or else at the uniform one's cost.
    """
    start = recipe(plan.space, plan.sizes)
    found: dict[str, Proposal] = {}
    knapsack: Knapsack | None = None
    if damage is not None and plan.space.per == "group":
        options = {name: plan.space.choices(name, plan.sizes) for name in plan.sizes}
        knapsack = Knapsack(options, damage, plan.load)
    for number, (uniform, load) in enumerate(_levels(plan, start)):
        if uniform is None:
            continue
        found.setdefault(uniform.key, Proposal(uniform, f"{UNIFORM}-{number}"))
        if knapsack is not None:
            least = plan.resized(uniform, knapsack.at(load))
            if plan.fits(least):
                found.setdefault(least.key, Proposal(least, f"seed:knapsack-{number}"))
    return list(found.values())


def _levels(plan: Plan, start: Candidate) -> list[tuple[Candidate | None, float]]:
    """Uniform candidates with a load (see `Plan.load`), from the budget down."""
    nearest = project(start, plan)
    if nearest is None:
        return []
    below = _wanted(plan, start) if plan.levels else _spread(plan, start, nearest)
    return [(nearest, 1.0), *below]


def _wanted(plan: Plan, start: Candidate) -> list[tuple[Candidate | None, float]]:
    """At each of the plan's levels."""
    top = plan.budget.limits[0].resolve(plan.dense)
    found = [
        (project(start, replace(plan, budget=level)), level.limits[0].resolve(plan.dense) / top)
        for level in plan.levels
    ]
    return sorted(found, key=lambda item: item[1], reverse=True)


def _spread(
    plan: Plan, start: Candidate, nearest: Candidate
) -> list[tuple[Candidate | None, float]]:
    """At equal steps of the ratio from the budget to the smallest model."""
    low = max(nearest.ratios.values(), default=0.0)
    found = []
    for level in range(1, LEVELS):
        ratio = low + (plan.space.max_ratio - low) * level / LEVELS
        ratios = plan.space.effective(dict.fromkeys(plan.sizes, ratio), plan.sizes)
        uniform = project(replace(start, ratios=ratios), plan)
        load = plan.load(plan.space.kept(uniform, plan.sizes)) if uniform else 0.0
        found.append((uniform, load))
    return found
