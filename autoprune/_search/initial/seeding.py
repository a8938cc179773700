"""The first candidates of a search, before Optuna has seen anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autoprune._search.allocation.allocator import Allocator, Sensitivity
from autoprune._search.allocation.ranking import Ranking
from autoprune._search.initial.proposals import Proposal
from autoprune._search.initial.rates import FIRST, LEAST_TRIALS, OTHER, other_rates
from autoprune._search.initial.sparse_seeds import sparse_seeds
from autoprune._search.plan import Plan
from autoprune._search.sampling.projection import project
from autoprune.architecture import Architecture
from autoprune.candidate import AUTO, BY_OPTIMIZER, Candidate
from autoprune.record import UNIFORM
from autoprune.space import FittedSpace, SearchSpace
from autoprune.space.settings import Value

LEVELS = 4
_EFFORT = 20_000  # loads a level
LEAST = "seed:least"  # prefix of the origin of least sensitive seeds

_PREFERRED: dict[str, Value] = {
    "importance": "obs",
    "repair": True,
    "pattern": "dense",
    "schedule.kind": "one_shot",
    "schedule.begin": 0.0,
    "schedule.end": 0.3,
    "schedule.steps": 3,
    "recovery.distillation": 0.5,
    "recovery.regularizer": 0.0,
    "recovery.warmup": 0.05,
    "recovery.rewarm": False,
    **{f"recovery.{name}": 0.0 for name in ("ema", "label_smoothing", "mixup", "features")},
    **{
        f"recovery.{name}.{optimizer}": value
        for name, values in BY_OPTIMIZER.items()
        for optimizer, value in values.items()
    },
}


def recipe(space: FittedSpace) -> Candidate:
    """The largest candidate, with the usual recipe as far as the space allows; a `draft`."""
    params: dict[str, Value] = {}
    for parameter in space.parameters:
        wanted = _preferred(parameter.name, space.space)
        known = wanted in parameter.choices if parameter.choices else True
        params[parameter.name] = parameter.clip(wanted) if known else parameter.choices[0]
    return space.draft(params)


def _preferred(name: str, space: SearchSpace) -> Value:
    optimizer = space.fixed.get("recovery.optimizer", "sgd")
    usual = _PREFERRED.get(f"{name}.{'sgd' if optimizer == AUTO else optimizer}")
    return _PREFERRED.get(name, space.min_ratio) if usual is None else usual


def seeds(
    plan: Plan,
    sensitivity: Sensitivity | None = None,
    importance: Mapping[str, Sequence[float]] | None = None,
) -> list[Proposal]:
    """The first candidates, within the budget and without duplicates.

    Uniform ratios for the budget and each of the plan's levels; where it has none, at `LEVELS`
    costs from the budget down towards the smallest model, the first being the nearest to the dense
    model that the budget allows. They are the baselines of the report, and take at most an eighth
    of the trials, at least one; of listed levels a quarter: that of the budget, then those of the
    lowest, where sensitivities of single groups say least (`results/allocator/criteria.md`). With
    `sensitivity`, at each level the least sensitive allocation (see `Allocator`): for the whole
    budget or level, which uniform ratios seldom use up, or else at the uniform one's cost. Its
    alternatives are the uniform one and, with `importance` (of each group's units, comparable
    between groups), the one of global pruning.
    Last, one for each kind of sparsity pattern and level. In a search of at least `LEAST_TRIALS`
    the first one comes at lower and higher learning rates as well; the best of these rates is
    then that of all that follow.
    """
    start = recipe(plan.space)
    levels = _levels(plan, start, sensitivity, importance)
    shown = _shown(plan, len(levels))
    found: dict[str, Proposal] = {}
    for number, (uniform, least, alternatives) in enumerate(levels):
        if uniform is not None and (number in shown or sensitivity is None):
            found.setdefault(uniform.key, Proposal(uniform, f"{UNIFORM}-{number}"))
        if least is not None:
            found.setdefault(
                least.key, Proposal(least, f"{LEAST}-{number}", alternatives=alternatives)
            )
    for number, budget in enumerate((plan.budget, *plan.levels)):
        for kind, sparse in sparse_seeds(replace(plan, budget=budget), start):
            origin = f"seed:{kind}-{number}"
            found.setdefault(sparse.key, Proposal(sparse, origin))
    return _with_rates(plan, list(found.values()))


def _with_rates(plan: Plan, proposals: list[Proposal]) -> list[Proposal]:
    """The first uniform candidate at other rates behind itself, where there are trials enough."""
    if not proposals or proposals[0].origin != FIRST or _trials(plan) < LEAST_TRIALS:
        return proposals
    others = other_rates(proposals[0].candidate, plan.space)
    rated = [Proposal(other, f"{OTHER}{number}") for number, other in enumerate(others)]
    return [proposals[0], *rated, *proposals[1:]]


# Uniform, least sensitive, and the latter's alternatives at about its cost.
Level = tuple[Candidate | None, Candidate | None, tuple[Candidate, ...]]


def _trials(plan: Plan) -> float:
    """How many full trials the limits allow."""
    trials: float = plan.limits.trials
    if plan.limits.total_epochs is not None:
        trials = min(trials, plan.limits.total_epochs / plan.epochs)
    return trials


def _shown(plan: Plan, levels: int) -> set[int]:
    """Which of the levels, from the budget down, have their uniform candidate trained, too.

    >>> from types import SimpleNamespace
    >>> limits = SimpleNamespace(trials=16, total_epochs=None)
    >>> _shown(SimpleNamespace(limits=limits, levels=()), 4)
    {0, 2}
    >>> _shown(SimpleNamespace(limits=limits, levels=(1, 2, 3, 4, 5)), 6)
    {0, 3, 4, 5}
    """
    if plan.levels:
        baselines = max(1, min(levels, int(_trials(plan) / 4 + 0.5)))
        return {0, *range(levels - baselines + 1, levels)}
    baselines = max(1, min(levels, int(_trials(plan) + 0.5) // 8))
    return {number * levels // baselines for number in range(baselines)}


def _levels(
    plan: Plan,
    start: Candidate,
    sensitivity: Sensitivity | None,
    importance: Mapping[str, Sequence[float]] | None,
) -> list[Level]:
    """From the budget down."""
    nearest = project(start, plan)
    if nearest is None:
        return []
    if plan.levels:
        found = [_level(plan, start, nearest, 1.0, _allocators(plan, sensitivity, importance))]
        for level in sorted(plan.levels, key=lambda b: -b.limits[0].resolve(plan.dense)):
            lower = replace(plan, budget=level)
            uniform = project(start, lower)
            found.append(
                _level(lower, start, uniform, 1.0, _allocators(lower, sensitivity, importance))
            )
        return found
    allocators = _allocators(plan, sensitivity, importance)
    below = uniform_below(plan, start, nearest, LEVELS)
    loads = [(nearest, 1.0), *((c, plan.load(plan.space.counts(c.architecture))) for c in below)]
    return [_level(plan, start, uniform, load, allocators) for uniform, load in loads]


Allocate = Callable[[float], Mapping[str, int]]  # widths at a load


def _allocators(
    plan: Plan, sensitivity: Sensitivity | None, importance: Mapping[str, Sequence[float]] | None
) -> list[Allocate]:
    """None at all where sensitivities are not known or groups share one ratio."""
    if sensitivity is None or not plan.space.per_group:
        return []
    space = plan.space
    groups = {name: space.choices(name) for name in space.widths}
    ranking = Ranking(groups, importance, plan.load) if importance else None
    allocator = Allocator(plan.items, sensitivity, plan.loads, effort=_EFFORT)

    def least(load: float) -> Mapping[str, int]:
        starts = [{**space.counts(Architecture()), **ranking.at(load)}] if ranking else []
        return allocator.at(load, starts)

    return [least, *([ranking.at] if ranking else [])]


def _level(
    plan: Plan,
    start: Candidate,
    uniform: Candidate | None,
    load: float,
    allocators: Sequence[Allocate],
) -> Level:
    space = plan.space
    patterns = space.patterns.params((uniform or start).architecture)
    made = [
        space.resized(start, space.architecture(allocate(load)), patterns)
        for allocate in allocators
    ]
    found = [candidate for candidate in made if plan.fits(candidate)]
    alternatives = [*found[1:], *([uniform] if uniform is not None else [])]
    return uniform, found[0] if found else None, tuple(alternatives)


def uniform_below(plan: Plan, start: Candidate, nearest: Candidate, levels: int) -> list[Candidate]:
    """Uniform candidates within the budget, at equal steps of the ratio down to the smallest."""
    space, top = plan.space, plan.space.space.max_ratio
    low = max(nearest.architecture.ratios(space.sizes).values(), default=0.0)
    found = []
    for level in range(1, levels):
        ratio = low + (top - low) * level / levels
        wanted = space.at_ratios(dict.fromkeys(space.widths, ratio))
        uniform = project(space.resized(start, wanted), plan)
        if uniform is not None:
            found.append(uniform)
    return found
