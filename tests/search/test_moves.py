"""Moves around a front: what each kind keeps, and where none is possible."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toy

from autoprune._search.plan import Plan
from autoprune._search.sampling.moves import GAP, Moves, random_values
from autoprune.architecture import Architecture
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.space import SearchSpace
from autoprune.space.settings import Parameter

PLAN = toy.make_plan()
WIDTHS = SearchSpace.parse({"ratios": {"max": 0.8}, "round_to": 2})  # nothing else varies


def candidate(ratio: float, plan: Plan = PLAN, **more: float) -> Candidate:
    params = {f"ratio.{name}": more.get(name, ratio) for name in toy.SIZES}
    settings = {p.name: p.high for p in plan.space.varied}
    return plan.space.candidate({**params, **settings})


def proposals(plan: Plan, moves: Moves, *made: Candidate, count: int = 60) -> list:
    rng = np.random.default_rng(0)
    parents = sorted((moves.parent(each) for each in made), key=lambda parent: parent.share)
    return [move for _ in range(count) if (move := moves.propose(rng, parents))]


def share(made: Candidate) -> float:
    return toy.price(made.architecture).get("macs") / toy.DENSE.get("macs")


def test_a_parents_share_is_its_cost_over_the_dense_one() -> None:
    moves, made = Moves(PLAN), candidate(0.5)
    parent = moves.parent(made)
    assert parent.candidate == made
    assert parent.share == (8 * 3 + 8 * 16 + 16 * 32) / (16 * 3 + 16 * 32 + 32 * 64)
    assert moves.parent(made) is parent


def test_the_share_is_of_the_first_cost_among_the_objectives_or_the_budget() -> None:
    from autoprune.pareto import Objective

    accuracy = Objective("accuracy", "maximize")
    made = {"a": 8, "b": 16, "c": 32}
    by_params = toy.make_plan(objectives=(accuracy, Objective("params"), Objective("macs")))
    price = toy.price(Architecture(made))
    assert Moves(by_params).share(made) == price.get("params") / toy.DENSE.get("params")
    by_budget = toy.make_plan(objectives=(accuracy,), budget=Budget.parse({"params": "50%"}))
    assert Moves(by_budget).share(made) == price.get("params") / toy.DENSE.get("params")


def test_kinds_are_those_that_the_space_and_the_front_allow() -> None:
    plan = toy.make_plan(space=WIDTHS)
    one, two = candidate(0.5, plan), candidate(0.3, plan)
    assert {kind for kind, _ in proposals(plan, Moves(plan), one)} == {"shift", GAP}
    assert {kind for kind, _ in proposals(plan, Moves(plan), one, two)} == {"shift", GAP, "cross"}
    fixed = SearchSpace.parse({"ratios": {"max": 0.0}, "recovery": {"lr": [0.01, 0.1]}})
    whole = toy.make_plan(space=fixed)
    only = whole.space.candidate({"recovery.lr": 0.01})
    assert {kind for kind, _ in proposals(whole, Moves(whole), only)} == {"recipe"}


def test_a_space_without_anything_to_move_proposes_nothing() -> None:
    plan = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.0}}))
    assert proposals(plan, Moves(plan), plan.space.candidate({})) == []


def test_a_recipe_changes_settings_and_no_width() -> None:
    parent = candidate(0.5)
    made = [it for kind, it in proposals(PLAN, Moves(PLAN), parent) if kind == "recipe"]
    assert len({it.recovery.lr for it in made}) > 3
    for each in made:
        assert each.architecture == parent.architecture
        assert each.recovery.lr is not None
        assert 0.01 <= each.recovery.lr <= 0.1


def test_a_shift_trades_one_group_for_another_at_no_more_cost() -> None:
    plan = toy.make_plan(space=WIDTHS)
    parent = candidate(0.5, plan)
    before = parent.architecture.widths
    made = [it for kind, it in proposals(plan, Moves(plan), parent) if kind == "shift"]
    assert made
    for each in made:
        widths = each.architecture.widths
        assert sorted(np.sign(widths[n] - before[n]) for n in widths) == [-1, 0, 1]
        assert share(each) <= share(parent)
        larger = next(n for n in widths if widths[n] > before[n])
        more = [units for units in plan.space.choices(larger) if units > widths[larger]]
        if more:  # the largest width that the freed cost allows
            wider = Architecture({**widths, larger: more[0]})
            assert toy.price(wider).get("macs") > toy.price(parent.architecture).get("macs")


def test_a_cross_lies_between_its_parents_cost() -> None:
    plan = toy.make_plan(space=WIDTHS)
    small, large = candidate(0.7, plan, a=0.1), candidate(0.2, plan, a=0.6)
    made = [it for kind, it in proposals(plan, Moves(plan), small, large) if kind == "cross"]
    assert made
    assert all(share(it) <= share(large) for it in made)
    assert min(share(it) for it in made) < 0.5 * share(large)


def test_a_gap_is_filled_between_the_smallest_model_and_the_limit() -> None:
    plan = toy.make_plan(space=WIDTHS, budget=Budget.parse({"macs": "40%"}))
    parent = candidate(0.5, plan)
    shares = [
        share(it) for kind, it in proposals(plan, Moves(plan), parent, count=120) if kind == GAP
    ]
    smallest = plan.smallest().get("macs") / toy.DENSE.get("macs")
    assert smallest - 1e-9 <= min(shares) < 0.15
    assert 0.35 < max(shares) <= 0.4


def test_a_neighbor_changes_one_group_and_keeps_the_cost() -> None:
    moves, rng = Moves(PLAN), np.random.default_rng(0)
    start = candidate(0.5)
    made = [it for _ in range(40) if (it := moves.neighbor(rng, start))]
    assert len({it.key for it in made}) > 10
    for each in made:
        assert each.recovery == start.recovery
        assert each.architecture != start.architecture
        assert share(each) <= share(start) * 1.0 + 1e-9 or each.architecture.widths["c"] == 64
    assert np.median([share(it) / share(start) for it in made]) > 0.85


@pytest.mark.parametrize(
    "space",
    [
        {"ratios": {"max": 0.8, "per": "global"}},
        {"ratios": {"max": 0.0}},
    ],
)
def test_there_is_no_neighbor_without_two_groups_of_their_own(space: dict) -> None:
    plan = toy.make_plan(space=SearchSpace.parse(space))
    made = plan.space.candidate({p.name: 0.5 for p in plan.space.parameters})
    assert Moves(plan).neighbor(np.random.default_rng(0), made) is None


def test_one_ratio_for_all_stays_between_its_ends() -> None:
    space = SearchSpace.parse({"ratios": {"min": 0.3, "max": 0.6, "per": "global"}, "round_to": 2})
    plan = toy.make_plan(space=space)
    moves = Moves(plan)
    for ratio in (0.3, 0.6):
        start = plan.space.candidate({"ratio": ratio})
        made = [it for _, it in proposals(plan, moves, start)]
        ratios = {float(plan.space.params(it)["ratio"]) for it in made}
        assert len(ratios) > 3
        assert all(0.25 <= found <= 0.65 for found in ratios)  # rounding apart


def test_settings_move_on_their_own_scale() -> None:
    spec = {"ratios": {"max": 0.0}, "recovery": {"lr": {"min": 1e-4, "max": 1.0, "log": True}}}
    plan = toy.make_plan(space=SearchSpace.parse(spec))
    start = plan.space.candidate({"recovery.lr": 0.01})
    steps = [
        math.log10(it.recovery.lr or 1.0) + 2.0
        for _, it in proposals(plan, Moves(plan), start, count=200)
    ]
    # 0.2 of the range of 4 decades is 0.8 decades
    assert np.mean(steps) == pytest.approx(0.0, abs=0.2)
    assert np.std(steps) == pytest.approx(0.8, abs=0.15)


def test_random_values_are_anywhere_between_the_ends_on_their_own_scale() -> None:
    parameters = [
        Parameter("lr", 1e-4, 1.0, log=True),
        Parameter("steps", 1, 4, integer=True),
        Parameter("kind", choices=("linear", "cubic")),
    ]
    rng = np.random.default_rng(0)
    drawn = [random_values(rng, parameters) for _ in range(400)]
    places = [math.log10(float(it["lr"])) for it in drawn]
    assert np.quantile(places, [0.25, 0.5, 0.75]) == pytest.approx([-3.0, -2.0, -1.0], abs=0.3)
    assert {it["steps"] for it in drawn} == {1, 2, 3, 4}
    assert {it["kind"] for it in drawn} == {"linear", "cubic"}
