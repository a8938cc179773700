"""The first candidates of a search, before Optuna has seen anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autoprune.candidate import Candidate
from autoprune.search.plan import Plan
from autoprune.search.projection import project
from autoprune.search.searcher import Proposal
from autoprune.space import SearchSpace, Value

LEVELS = 4
Damage = Callable[[str, int], float]

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
    the allocation that does the least damage at the same cost (see `allocate`).
    """
    start = recipe(plan.space, plan.sizes)
    found: dict[str, Proposal] = {}
    for level in range(LEVELS):
        uniform = _uniform(plan, start, level)
        if uniform is None:
            continue
        found.setdefault(uniform.key, Proposal(uniform, f"seed:uniform-{level}"))
        if damage is not None and plan.space.per == "group":
            ratios = allocate(plan, damage, _spent(plan, uniform))
            least = project(replace(uniform, ratios=ratios), plan)
            if least is not None:
                found.setdefault(least.key, Proposal(least, f"seed:knapsack-{level}"))
    return list(found.values())


def allocate(plan: Plan, damage: Damage, share: float) -> dict[str, float]:
    """Ratios that do the least damage at `share` of the dense cost in every limited field.

    `damage(group, kept)` is what leaving `kept` units alone of one group costs. From the whole
    model, the group whose next step does the least further damage for the cost that it saves loses
    that step, until the cost is reached (the greedy solution of the knapsack; exact where damage is
    convex and costs add up).
    """
    kept = {name: plan.space.most(name, plan.sizes) for name in plan.sizes}
    while (now := _share(plan, kept)) > share:
        steps = [step for name in kept if (step := _step(plan, damage, kept, name, now))]
        if not steps:
            break
        _, name, units = min(steps)
        kept[name] = units
    return {name: 1.0 - units / plan.sizes[name] for name, units in kept.items()}


def _step(
    plan: Plan, damage: Damage, kept: Mapping[str, int], name: str, now: float
) -> tuple[float, str, int] | None:
    """Further damage per saved cost of a group's next step; None where it has none."""
    units = next((u for u in _choices(plan, name) if u < kept[name]), None)
    if units is None:
        return None
    saved = now - _share(plan, {**kept, name: units})
    worse = damage(name, units) - damage(name, kept[name])
    return (worse / saved if saved > 0.0 else float("inf"), name, units)


def _choices(plan: Plan, name: str) -> Sequence[int]:
    """The numbers of units that the space can keep of a group, descending."""
    size, least = plan.sizes[name], plan.space.least(name, plan.sizes)
    ratios = {f"{name}": 0.0}
    found = set()
    for units in range(size, least - 1, -1):
        ratios[name] = 1.0 - units / size
        effective = plan.space.effective(ratios, {name: size})[name]
        found.add(round(size * (1.0 - effective)))
    return sorted((u for u in found if u >= least), reverse=True)


def _share(plan: Plan, kept: Mapping[str, int]) -> float:
    """The cost's largest share of the dense model's among the limited fields."""
    cost = plan.price(kept)
    return max(cost.get(name) / plan.dense.get(name) for name in plan.budget.fields)


def _spent(plan: Plan, candidate: Candidate) -> float:
    return _share(plan, plan.space.kept(candidate, plan.sizes))


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
