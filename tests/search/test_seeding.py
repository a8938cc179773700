import toy

from autoprune.budget import Budget
from autoprune.search.seeding import recipe, seeds
from autoprune.space import SearchSpace

WEIGHTS = {"a": 1.0, "b": 4.0, "c": 0.5}


def damage(name: str, kept: int) -> float:
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
    for proposal in seeds(plan, damage):
        params = plan.space.params_from(proposal.candidate, toy.SIZES)
        assert plan.space.candidate_from(params, toy.SIZES) == proposal.candidate


def test_a_budget_that_the_dense_model_meets_is_seeded_with_the_dense_model() -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": "100%"}))
    assert set(seeds(plan)[0].candidate.ratios.values()) == {0.0}


def test_the_recipe_takes_the_usual_values_where_the_space_has_them() -> None:
    space = SearchSpace.parse(
        {
            "importance": ["l1", "bn_scale"],
            "schedule": {"kind": ["cubic", "one_shot"]},
            "recovery": {"lr": {"min": 0.05, "max": 0.1}},
        }
    )
    candidate = recipe(space, toy.SIZES)
    assert candidate.importance == "l1"  # l2 is none of them: the first
    assert candidate.schedule.kind == "one_shot"
    assert candidate.recovery.lr == 0.05


def test_seeds_with_damage_do_less_at_no_higher_cost_than_uniform_ones() -> None:
    plan = toy.make_plan()
    found = {p.origin: p.candidate for p in seeds(plan, damage)}
    assert 0.49 < (plan.cost(found["seed:knapsack-0"]).macs or 0) / (toy.DENSE.macs or 1) <= 0.5
    for level in range(1, 4):
        least, uniform = found[f"seed:knapsack-{level}"], found[f"seed:uniform-{level}"]
        assert (plan.cost(least).macs or 0) <= (plan.cost(uniform).macs or 0)
        kept = [plan.space.kept(c, toy.SIZES) for c in (least, uniform)]
        assert sum(damage(n, k) for n, k in kept[0].items()) <= sum(
            damage(n, k) for n, k in kept[1].items()
        )


def test_seeds_lie_just_within_each_level_that_is_wanted() -> None:
    budget = Budget.parse({"macs": "50%"})
    plan = toy.make_plan(budget=budget, levels=budget.lowered(["20%", 900], "levels"))
    costs = {p.origin: plan.cost(p.candidate).macs or 0 for p in seeds(plan, damage)}
    whole = toy.DENSE.macs or 0
    for number, limit in enumerate((0.5 * whole, 900, 0.2 * whole)):  # the higher cost first
        assert 0.9 * limit < costs[f"seed:knapsack-{number}"] <= limit
        assert 0.8 * limit < costs[f"seed:uniform-{number}"] <= limit
    assert len(costs) == 6


def test_a_level_lowers_its_own_limit_alone() -> None:
    budget = Budget.parse({"macs": "80%", "params": "60%"})
    plan = toy.make_plan(budget=budget, levels=budget.lowered(["40%"], "levels"))
    found = {p.origin: plan.cost(p.candidate) for p in seeds(plan, damage)}
    macs = (found["seed:knapsack-1"].macs or 0) / (toy.DENSE.macs or 1)
    assert 0.36 < macs <= 0.4  # half of the limit on parameters would allow 0.23
