import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune._search.sampling.projection import project
from autoprune.architecture import Architecture
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.errors import BudgetError
from autoprune.space import SearchSpace


def candidate(*ratios: float) -> Candidate:
    return Candidate(toy.FITTED.at_ratios(dict(zip(toy.SIZES, ratios, strict=True))))


@settings(max_examples=60)
@given(
    ratios=st.tuples(*[st.floats(0.0, 0.8)] * 3),
    share=st.sampled_from(["10%", "30%", "50%", "90%"]),
)
def test_a_projection_is_within_the_budget_and_removes_no_less(
    ratios: tuple[float, ...], share: str
) -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": share}))
    given_ = candidate(*ratios)
    moved = project(given_, plan)
    assert moved is not None
    assert plan.allows(plan.cost(moved))
    kept, before = moved.architecture.widths, given_.architecture.widths
    assert all(kept[name] <= before[name] for name in kept)
    if plan.allows(plan.cost(given_)):
        assert moved == given_


def test_a_projection_stops_at_the_budgets_surface() -> None:
    plan = toy.make_plan()
    moved = project(candidate(0.0, 0.0, 0.0), plan)
    assert moved is not None
    kept = moved.architecture.widths
    limit = 0.5 * (16 * 3 + 16 * 32 + 32 * 64)
    # one round_to step less in every group, which the next smaller share of the way would give
    wider = {name: units + 2 for name, units in kept.items()}
    assert (plan.cost(moved).macs or 0) <= limit
    assert limit < (plan.price(Architecture(wider)).macs or 0)


@given(ratio=st.floats(0.0, 0.75), share=st.sampled_from(["15%", "30%", "50%"]))
def test_one_ratio_for_all_groups_stays_one_ratio(ratio: float, share: str) -> None:
    space = SearchSpace.parse({"ratios": {"max": 0.75, "per": "global"}, "round_to": 4})
    plan = toy.make_plan(space=space, budget=Budget.parse({"macs": share}))
    moved = project(plan.space.candidate({"ratio": ratio}), plan)
    assert moved is not None
    assert plan.allows(plan.cost(moved))
    params = plan.space.params(moved)
    assert plan.space.candidate(params).architecture == moved.architecture


def test_a_projection_that_never_meets_the_budget_is_none() -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": "1%"}))
    assert project(candidate(0.1, 0.1, 0.1), plan) is None


def test_a_budget_below_the_smallest_model_is_refused_with_its_cost() -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": 100}))
    # 80 % off 16, 32, 64 leaves 4, 6, 12 in steps of 2
    smallest = 4 * 3 + 4 * 6 + 6 * 12
    with pytest.raises(BudgetError, match=rf"budget.macs must be at least {smallest} .*got 100"):
        plan.check()
    toy.make_plan(budget=Budget.parse({"macs": smallest})).check()


def test_the_margin_counts_on_latencies_only() -> None:
    from autoprune.budget import Cost, Device

    dense = Cost(macs=100, latency_ms=10.0, device=Device("cpu"))
    plan = toy.make_plan(
        dense=dense,
        budget=Budget.parse({"macs": "50%", "latency_ms": "50%"}),
        margins={"latency_ms": 0.1},
    )
    near = Cost(macs=50, latency_ms=4.6, device=Device("cpu"))
    assert plan.over(near) == {"macs": 0.0, "latency_ms": pytest.approx(4.6 * 1.1 / 5.0 - 1.0)}
    assert not plan.allows(near)
