"""The variables of the allocator, on the plan of a small chain with hand-made sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from autoprune._search.initial.seeding import recipe
from autoprune._search.plan import Plan
from autoprune._search.sampling.study import candidate_of, distributions
from autoprune._search.sampling.variables import COST, DEPTHS, STAGES, Aims, Allocated
from autoprune.architecture import BLOCK, INT8, Architecture
from autoprune.budget import Budget, Cost
from autoprune.pareto import Objective
from autoprune.patterns import WeightCurve
from autoprune.space import FittedSpace, SearchSpace

SIZES = {f"g{n}": 40 for n in range(6)}
BLOCKS = {"b0": ("g0",), "b1": ("g3",)}


def price(architecture: Architecture, fields=None) -> Cost:
    """A multiply-accumulate a unit, and a quarter of it in int8."""
    lost = {group for name in architecture.dropped for group in BLOCKS[name]}
    units = sum(
        architecture.widths.get(name, size) for name, size in SIZES.items() if name not in lost
    )
    return Cost(macs=units, params=units // (4 if architecture.precision == INT8 else 1))


def plan_of(spec: Mapping[str, object], budget: str = "macs", share: str = "60%") -> Plan:
    space = SearchSpace.parse({"ratios": {"max": 0.8}, **spec})
    return Plan(
        space=FittedSpace.of(space, SIZES, blocks=BLOCKS),
        price=price,
        dense=price(Architecture()),
        budget=Budget.parse({budget: share}),
        objectives=(Objective("accuracy", "maximize"), Objective(budget)),
        reference=(0.0, 240.0),
    )


def sensitivity(item: str, option: int) -> float:
    if item.startswith(BLOCK):
        return 0.5 * (1 - option)
    if item.startswith("precision"):
        return 0.1 * (1 - option)
    return (1.0 - option / 40) ** 2


def middle(variables: Allocated, **changes: object) -> dict[str, object]:
    found = {
        p.name: p.choices[0] if p.choices else p.clip((p.low + p.high) / 2.0)
        for p in variables.parameters
    }
    return {**found, **changes}


def test_there_are_as_many_variables_for_any_number_of_groups() -> None:
    plan = plan_of({"depth": {"max": 0.5}, "recovery": {"lr": [0.01, 0.1]}})
    names = [parameter.name for parameter in Allocated(plan, sensitivity).parameters]
    offsets = [f"offset.{part}" for part in (*STAGES, *DEPTHS[:2])]  # two blocks have two thirds
    assert names == [COST, *offsets, "recovery.lr"]
    without = Allocated(plan_of({"depth": False}), sensitivity).parameters
    assert [p.name for p in without] == [COST, *(f"offset.{stage}" for stage in STAGES)]


@pytest.mark.parametrize("cost", [1.0, 0.7, 0.5])
def test_a_candidate_uses_its_share_of_the_budget(cost: float) -> None:
    plan = plan_of({"depth": {"max": 0.5}})
    variables = Allocated(plan, sensitivity)
    candidate = variables.candidate(middle(variables, cost=cost))
    load = plan.load(plan.space.counts(candidate.architecture))
    assert cost * 0.97 <= load <= cost
    assert variables.params(candidate)[COST] == pytest.approx(load)


def test_an_offset_widens_its_stage_at_the_cost_of_the_others() -> None:
    plan = plan_of({"depth": False})
    variables = Allocated(plan, sensitivity)
    even = variables.candidate(middle(variables)).architecture.widths
    early = variables.candidate(middle(variables, **{"offset.early": 1.5}))
    widths = early.architecture.widths
    assert widths["g0"] > even["g0"]
    assert widths["g1"] > even["g1"]
    assert widths["g5"] < even["g5"]
    assert variables.params(early)["offset.early"] > 0.3
    assert variables.params(early)["offset.late"] < 0.0


def test_the_offsets_of_depth_keep_blocks_of_their_third() -> None:
    plan = plan_of({"depth": {"max": 1.0}})
    variables = Allocated(plan, sensitivity)

    def dropped(early: float, middle_: float) -> tuple[str, ...]:
        offsets = {"offset.depth.early": early, "offset.depth.middle": middle_}
        made = variables.candidate(middle(variables, cost=0.6, **offsets))
        found = variables.params(made)
        assert (found["offset.depth.early"] > found["offset.depth.middle"]) == (early > middle_)
        return made.architecture.dropped

    assert dropped(-2.0, -2.0) == ("b0", "b1")
    assert dropped(2.0, 2.0) == ()
    assert dropped(2.0, -2.0) == ("b1",)
    assert dropped(-2.0, 2.0) == ("b0",)


def test_a_share_little_below_the_budget_or_a_level_stands_for_it() -> None:
    plan = plan_of({"depth": False}, share="80%")
    plan = replace(plan, levels=(Budget.parse({"macs": "40%"}),))
    variables = Allocated(plan, sensitivity)
    costs = {
        share: variables.candidate(middle(variables, cost=share)).architecture
        for share in (0.4, 0.6, 0.75, 1.0)
    }
    used = {share: plan.load(plan.space.counts(made)) for share, made in costs.items()}
    assert used[0.4] == pytest.approx(0.5, abs=0.01)  # the level of 40 %
    assert used[0.6] == pytest.approx(0.6, abs=0.01)  # as drawn
    assert used[0.75] == used[1.0] == pytest.approx(1.0, abs=0.01)
    drawn = next(p for p in variables.parameters if p.name == COST)
    assert drawn.low == pytest.approx(0.5 * 0.5**0.5)


def test_a_level_lowers_the_first_limit_alone() -> None:
    plan = replace(plan_of({"depth": False}), budget=Budget.parse({"macs": "80%", "params": "25%"}))
    aims = Aims.of(plan)
    assert aims.limits(0.9) == (0.9, 0.9)  # as drawn, where no levels are wanted
    assert aims.least == max(aims.floors) == pytest.approx(0.8)  # of 20 % in 25 %
    plan = replace(plan, levels=plan.budget.lowered(["40%"], "search.levels"))
    aims = Aims.of(plan)
    assert aims.least == pytest.approx(0.5 * 0.5**0.5)  # the other limit's floor does not count
    assert aims.limits(0.4) == (0.5, 1.0)
    assert aims.limits(0.6) == pytest.approx((0.6, 0.8))
    assert aims.share((0.5, 0.9)) == 0.5  # a model at the level, whatever it uses of the other
    assert aims.share((0.6, 0.9)) == 0.9


def test_a_level_near_the_budget_leaves_room_below_it() -> None:
    plan = plan_of({"depth": False}, share="80%")
    plan = replace(plan, levels=plan.budget.lowered(["76%"], "search.levels"))
    assert Aims.of(plan).least == pytest.approx(0.95 * 0.5**0.5)


@pytest.mark.parametrize("importance", ["l2", "obs"])
def test_what_is_drawn_beside_the_allocation_is_kept(importance: str) -> None:
    spec = {"importance": ["l2", "obs"], "repair": [True, False]}
    variables = Allocated(plan_of(spec), sensitivity)
    drawn = middle(variables, importance=importance, repair=False)
    made = variables.candidate(drawn)
    assert (made.selection.importance, made.selection.repair) == (importance, False)


def test_precision_is_drawn_and_the_widths_follow() -> None:
    plan = plan_of({"depth": False, "precision": ["float32", "int8"]}, budget="params")
    variables = Allocated(plan, sensitivity)
    float32 = variables.candidate(middle(variables, cost=1.0))
    int8 = variables.candidate(middle(variables, cost=1.0, precision=INT8))
    assert int8.architecture.precision == INT8
    assert sum(int8.architecture.widths.values()) == 240
    assert sum(float32.architecture.widths.values()) <= 144


def test_a_trial_of_the_study_stands_for_the_very_candidate_it_was_made_for() -> None:
    import optuna

    plan = plan_of({"depth": {"max": 0.5}})
    plan = replace(plan, allocated=Allocated(plan, sensitivity))
    rng = np.random.default_rng(0)
    widths = {name: int(rng.integers(8, 41)) for name in SIZES}
    odd = plan.space.resized(recipe(plan.space), Architecture(widths))
    params = plan.variables.params(odd)
    assert plan.variables.candidate(params) != odd
    trial = optuna.trial.create_trial(
        values=[0.0, 0.0],
        params=params,
        distributions=distributions(plan),
        user_attrs={"made": odd.to_dict()},
    )
    assert candidate_of(trial, plan) == odd


def test_zeros_leave_room_for_more_units_in_a_budget_of_file_bytes() -> None:
    def sparse_price(architecture: Architecture, fields=None) -> Cost:
        zeros = sum(float(p) for p in architecture.patterns.values()) / 2.0
        units = price(architecture).macs or 0
        return Cost(macs=units, file_bytes=int(units * (1.0 - zeros)))

    spec = {"patterns": {"kinds": ["dense", "unstructured"], "sparsity": {"max": 0.9}}}
    plan = plan_of(spec, "file_bytes", "40%")
    curve = (0.0, 0.5, 1.0)
    weights = {"w": WeightCurve(100, 8, curve), "v": WeightCurve(100, 8, curve)}
    plan = replace(
        plan,
        space=FittedSpace.of(plan.space.space, SIZES, blocks=BLOCKS, weights=weights),
        price=sparse_price,
        dense=sparse_price(Architecture()),
    )
    variables = Allocated(plan, sensitivity)
    names = {parameter.name for parameter in variables.parameters}
    assert {"pattern", "sparsity"} <= names
    units = {}
    for kind in ("dense", "unstructured"):
        made = variables.candidate(middle(variables, cost=1.0, pattern=kind, sparsity=0.5))
        assert plan.fits(made)
        assert plan.cost(made).get("file_bytes") > 0.9 * 0.4 * 240
        units[kind] = plan.cost(made).get("macs")
        values = variables.params(made)
        assert values["pattern"] == kind
        assert values["sparsity"] == (0.5 if kind == "unstructured" else 0.0)
    assert units["unstructured"] == pytest.approx(2.0 * units["dense"], rel=0.1)
