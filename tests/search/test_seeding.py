from dataclasses import replace

import pytest
import toy

from autoprune._search.initial.seeding import recipe, seeds
from autoprune._search.plan import Limits
from autoprune.budget import Budget
from autoprune.space import FittedSpace, SearchSpace

WEIGHTS = {"a": 1.0, "b": 4.0, "c": 0.5}


def sensitivity(name: str, kept: int) -> float:
    return WEIGHTS[name] * (1.0 - kept / toy.SIZES[name]) ** 2


def test_uniform_seeds_start_at_the_budget_and_go_down() -> None:
    plan = toy.make_plan()
    found = seeds(plan)
    costs = [plan.cost(proposal.candidate).macs or 0 for proposal in found]
    assert [proposal.origin for proposal in found] == [f"seed:uniform-{k}" for k in range(4)]
    assert costs == sorted(costs, reverse=True)
    assert 0.4 < costs[0] / (toy.DENSE.macs or 1) <= 0.5
    assert costs[-1] < 0.5 * costs[0]


def test_seeds_are_within_the_space() -> None:
    plan = toy.make_plan()
    for proposal in seeds(plan, sensitivity):
        params = plan.space.params(proposal.candidate)
        assert plan.space.candidate(params) == proposal.candidate


def test_a_budget_that_the_dense_model_meets_is_seeded_with_the_dense_model() -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": "100%"}))
    assert seeds(plan)[0].candidate.architecture.widths == toy.SIZES


def test_the_recipe_takes_the_usual_values_where_the_space_has_them() -> None:
    space = SearchSpace.parse(
        {
            "importance": ["l1", "bn_scale"],
            "schedule": {"kind": ["cubic", "one_shot"]},
            "recovery": {"lr": {"min": 0.05, "max": 0.1}},
        }
    )
    candidate = recipe(FittedSpace.of(space, toy.SIZES))
    assert candidate.selection.importance == "l1"  # l2 is none of them: the first
    assert candidate.schedule.kind == "one_shot"
    assert candidate.recovery.lr == 0.05


def test_seeds_with_damage_do_less_at_no_higher_cost_than_uniform_ones() -> None:
    plan = toy.make_plan(limits=Limits(trials=32))
    found = {p.origin: p.candidate for p in seeds(plan, sensitivity)}
    assert 0.49 < (plan.cost(found["seed:least-0"]).macs or 0) / (toy.DENSE.macs or 1) <= 0.5
    for level in range(1, 4):
        least, uniform = found[f"seed:least-{level}"], found[f"seed:uniform-{level}"]
        assert (plan.cost(least).macs or 0) <= (plan.cost(uniform).macs or 0)
        kept = [c.architecture.widths for c in (least, uniform)]
        assert sum(sensitivity(n, k) for n, k in kept[0].items()) <= sum(
            sensitivity(n, k) for n, k in kept[1].items()
        )


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        (Limits(trials=7), [0]),
        (Limits(trials=16), [0, 2]),
        (Limits(trials=100), [0, 1, 2, 3]),
        (Limits(trials=100, total_epochs=16 * 4.0), [0, 2]),
    ],
)
def test_baselines_take_an_eighth_of_the_trials(limits: Limits, shown: list[int]) -> None:
    plan = toy.make_plan(limits=limits, epochs=4.0)
    origins = [p.origin for p in seeds(plan, sensitivity)]
    uniform = [o for o in origins if "uniform" in o and "rate" not in o]
    assert uniform == [f"seed:uniform-{level}" for level in shown]


def test_baselines_take_a_quarter_where_levels_are_listed() -> None:
    plan = toy.make_plan(limits=Limits(trials=12))
    plan = replace(plan, levels=plan.budget.lowered(["40%", "30%", "20%"], "search.levels"))
    origins = [p.origin for p in seeds(plan, sensitivity)]
    uniform = [o for o in origins if "uniform" in o and "rate" not in o]
    assert uniform == ["seed:uniform-0", "seed:uniform-2", "seed:uniform-3"]
    assert [o for o in origins if "least" in o] == [f"seed:least-{level}" for level in range(4)]


def test_the_rivals_of_a_seed_cost_no_more_and_keep_the_worthiest_units() -> None:
    plan = toy.make_plan()
    importance = {
        name: [(2.0 if name == "b" else 1.0) * (1 + unit) / size for unit in range(size)]
        for name, size in toy.SIZES.items()
    }
    least = [p for p in seeds(plan, sensitivity, importance) if p.alternatives is not None]
    assert len(least) == 4
    for proposal in least:
        globally, uniform = proposal.alternatives or ()
        assert len(set(uniform.architecture.ratios(toy.SIZES).values())) <= 2  # rounding apart
        ratios = globally.architecture.ratios(toy.SIZES)
        assert ratios["b"] < min(ratios["a"], ratios["c"])
        allowed = (plan.cost(proposal.candidate).macs or 0) * 1.05
        assert all((plan.cost(c).macs or 0) <= allowed for c in (globally, uniform))


def test_seeds_lie_just_within_each_level_that_is_wanted() -> None:
    budget = Budget.parse({"macs": "50%"})
    plan = toy.make_plan(budget=budget, levels=budget.lowered(["20%", 900], "levels"))
    costs = {p.origin: plan.cost(p.candidate).macs or 0 for p in seeds(plan, sensitivity)}
    whole = toy.DENSE.macs or 0
    for number, limit in enumerate((0.5 * whole, 900, 0.2 * whole)):  # the higher cost first
        assert 0.9 * limit < costs[f"seed:least-{number}"] <= limit
        if f"seed:uniform-{number}" in costs:
            assert 0.8 * limit < costs[f"seed:uniform-{number}"] <= limit
    assert {o for o in costs if "uniform" in o} == {"seed:uniform-0", "seed:uniform-2"}


def test_a_level_lowers_its_own_limit_alone() -> None:
    budget = Budget.parse({"macs": "80%", "params": "60%"})
    plan = toy.make_plan(budget=budget, levels=budget.lowered(["40%"], "levels"))
    found = {p.origin: plan.cost(p.candidate) for p in seeds(plan, sensitivity)}
    macs = (found["seed:least-1"].macs or 0) / (toy.DENSE.macs or 1)
    assert 0.36 < macs <= 0.4  # half of the limit on parameters would allow 0.23


def test_seeds_are_trained_by_the_usual_recipe() -> None:
    """Though the model that they are made from has nothing pruned that it counts for."""
    spec = {
        "importance": ["l1", "obs"],
        "schedule": {"kind": ["cubic", "one_shot"]},
        "recovery": {"optimizer": "sgd"},
    }
    plan = toy.make_plan(space=SearchSpace.parse(spec))
    found = [proposal.candidate for proposal in seeds(plan, sensitivity)]
    assert {it.selection.importance for it in found} == {"obs"}
    assert {it.schedule.kind for it in found} == {"one_shot"}
