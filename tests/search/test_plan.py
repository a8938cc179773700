from collections.abc import Collection
from dataclasses import replace

import pytest
import toy

from autoprune.architecture import INT8, Architecture
from autoprune.budget import Budget, Cost, Device, Timing
from autoprune.errors import BudgetError
from autoprune.space import SearchSpace


def test_a_trial_is_evaluated_at_halves_and_at_its_end() -> None:
    assert toy.make_plan(epochs=4.0, rungs=2).milestones == (1.0, 2.0, 4.0)
    assert toy.make_plan(epochs=3.0, rungs=0).milestones == (3.0,)


def test_the_smallest_model_keeps_the_least_of_every_group() -> None:
    assert toy.make_plan().smallest() == toy.price(Architecture({"a": 4, "b": 6, "c": 12}))


def test_the_smallest_model_for_memory_may_have_more_channels() -> None:
    def price(architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        widths = architecture.complete(toy.SIZES)
        buffer = 100 * sum(width % 4 > 0 for width in widths.values())
        return Cost(macs=sum(widths.values()), peak_memory_bytes=sum(widths.values()) + buffer)

    sizes = sum(toy.SIZES.values())
    plan = toy.make_plan(
        price=price, dense=price(Architecture()), budget=Budget.parse({"peak_memory_bytes": sizes})
    )
    assert plan.smallest_architecture.widths == {"a": 4, "b": 8, "c": 12}
    assert plan.smallest().peak_memory_bytes == 24
    plan.check()
    tight = Budget.parse({"peak_memory_bytes": 20})
    with pytest.raises(BudgetError, match=r"peak_memory_bytes must be at least 24 .* got 20"):
        toy.make_plan(price=price, dense=price(Architecture()), budget=tight).check()


def test_the_smallest_model_for_memory_is_looked_for_in_int8() -> None:
    def price(architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        widths, is_int8 = architecture.complete(toy.SIZES), architecture.precision == INT8
        buffer = 100 * sum(width % 4 > 0 for width in widths.values()) if is_int8 else 200
        return Cost(macs=sum(widths.values()), peak_memory_bytes=sum(widths.values()) + buffer)

    spec = {"ratios": {"max": 0.8}, "round_to": 2, "precision": ["float32", "int8"]}
    plan = toy.make_plan(
        space=SearchSpace.parse(spec),
        price=price,
        dense=price(Architecture()),
        budget=Budget.parse({"peak_memory_bytes": "50%"}),
    )
    assert plan.smallest_architecture == Architecture({"a": 4, "b": 8, "c": 12}, precision=INT8)


def test_a_rate_out_of_reach_is_named_as_it_was_given() -> None:
    def price(architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        return Cost(latency_ms=50.0, device=Device("here"))

    budget = Budget.parse({"latency_ms": "30 fps"})
    with pytest.raises(
        BudgetError, match=r"latency_ms must be at least 50 .* got 33\.33 \(30 fps\)"
    ):
        toy.make_plan(price=price, dense=price(Architecture()), budget=budget).check()


def test_each_latency_has_its_own_margin() -> None:
    device = Device("here")
    dense = Cost(macs=100, timings=(Timing("a", 10.0, 11.0, device), Timing("b", 4.0, 5.0, device)))
    plan = toy.make_plan(
        dense=dense,
        budget=Budget.parse({"macs": "100%", "latency_ms": {"a": "10 ms", "b": "50%"}}),
        margins={"latency_ms@a": 0.1},
    )
    cost = Cost(macs=100, timings=(Timing("a", 9.5, 10.0, device), Timing("b", 2.0, 3.0, device)))
    assert plan.over(cost) == pytest.approx(
        {"macs": 0.0, "latency_ms@a": 0.95 * 1.1 - 1.0, "latency_ms@b": 0.0}
    )
    assert not plan.allows(cost)
    # 10 / 1.1
    assert plan.broken(cost) == ["latency_ms@a 9.5 is above 9.0909 (10 less a margin of 10 %)"]
    large = replace(cost, macs=101)
    assert plan.broken(large)[0] == "macs 101 is above 100"


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("1%", r"search.levels: macs must be at least 108 .* got 26.08 · raise it"),
        (2000, r"search.levels: macs <= 2000 must be below the budget's macs <= 0.5 x dense"),
    ],
)
def test_a_level_between_the_smallest_model_and_the_budget_is_needed(
    level: str | int, message: str
) -> None:
    budget = Budget.parse({"macs": "50%"})
    with pytest.raises(BudgetError, match=message):
        toy.make_plan(levels=budget.lowered([level], "levels")).check()
    toy.make_plan(levels=budget.lowered(["20%", 200], "levels")).check()
