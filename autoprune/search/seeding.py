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
    for number, (uniform, least) in enumerate(_levels(plan, start, damage)):
        if uniform is not None:
            found.setdefault(uniform.key, Proposal(uniform, f"{UNIFORM}-{number}"))
        if least is not None:
            found.setdefault(least.key, Proposal(least, f"seed:knapsack-{number}"))
    return list(found.values())


Pair = tuple[Candidate | None, Candidate | None]  # uniform, and with the least damage


def _levels(plan: Plan, start: Candidate, damage: Damage | None) -> list[Pair]:
    """From the budget down."""
    nearest = project(start, plan)
    if nearest is None:
        return []
    knapsack = _knapsack(plan, damage)
    if plan.levels:
        found: list[Pair] = [(nearest, _least(plan, nearest, knapsack, 1.0))]
        for level in sorted(plan.levels, key=lambda b: -b.limits[0].resolve(plan.dense)):
            lower = replace(plan, budget=level)
            uniform = project(start, lower)
            least = _least(lower, uniform or start, _knapsack(lower, damage), 1.0)
            found.append((uniform, least))
        return found
    loads = [(nearest, 1.0), *_spread(plan, start, nearest)]
    return [(uniform, _least(plan, uniform, knapsack, load)) for uniform, load in loads]


def _knapsack(plan: Plan, damage: Damage | None) -> Knapsack | None:
    """None where damages are not known, or groups share one ratio."""
    if damage is None or plan.space.per != "group":
        return None
    options = {name: plan.space.choices(name, plan.sizes) for name in plan.sizes}
    return Knapsack(options, damage, plan.load)


def _least(plan: Plan, like: Candidate, knapsack: Knapsack | None, load: float) -> Candidate | None:
    """`like` with the ratios that do the least damage at a load, where the budget allows it."""
    found = plan.resized(like, knapsack.at(load)) if knapsack is not None else None
    return found if found is not None and plan.fits(found) else None


def _spread(plan: Plan, start: Candidate, nearest: Candidate) -> list[tuple[Candidate, float]]:
    """Uniform candidates with their load, at equal steps of the ratio down to the smallest."""
    low = max(nearest.ratios.values(), default=0.0)
    found = []
    for level in range(1, LEVELS):
        ratio = low + (plan.space.max_ratio - low) * level / LEVELS
        ratios = plan.space.effective(dict.fromkeys(plan.sizes, ratio), plan.sizes)
        uniform = project(replace(start, ratios=ratios), plan)
        if uniform is not None:
            found.append((uniform, plan.load(plan.space.kept(uniform, plan.sizes))))
    return found
