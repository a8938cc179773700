"""What blocks count beside widths, on a chain whose divergences are known."""

from __future__ import annotations

import math

import pytest

from autoprune._search.allocation.allocator import Allocator
from autoprune._search.plan import Plan
from autoprune._search.preparing.block_factor import FACTORS, balanced, loads, scaled
from autoprune.architecture import BLOCK, Architecture
from autoprune.budget import Budget, Cost
from autoprune.pareto import Objective
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.space import FittedSpace, SearchSpace

SIZES = {f"g{n}": 40 for n in range(6)}
BLOCKS = {"b0": ("g0",), "b1": ("g3",), "b2": ("g4",)}
ALONE = {"b0": 0.3, "b1": 0.5, "b2": 0.8}


def price(architecture: Architecture, fields=None) -> Cost:
    lost = {group for name in architecture.dropped for group in BLOCKS[name]}
    return Cost(macs=sum(architecture.complete(SIZES)[g] for g in SIZES if g not in lost), params=1)


def plan_of(depth: object, share: str = "50%") -> Plan:
    space = SearchSpace.parse({"ratios": {"max": 0.8}, "round_to": 1, "depth": depth})
    return Plan(
        space=FittedSpace.of(space, SIZES, blocks=BLOCKS),
        price=price,
        dense=price(Architecture()),
        budget=Budget.parse({"macs": share}),
        objectives=(Objective("accuracy", "maximize"), Objective("macs")),
        reference=(0.0, 240.0),
    )


def measured() -> Sensitivity:
    counts = dict.fromkeys(SIZES, (8, 20, 40))
    blocks = {f"{BLOCK}{name}": value for name, value in ALONE.items()}
    return Sensitivity(
        0.0,
        {**counts, **dict.fromkeys(blocks, (0, 1))},
        {
            **dict.fromkeys(counts, (0.64, 0.25, 0.0)),
            **{name: (value, 0.0) for name, value in blocks.items()},
        },
    )


def truth(factor: float, asked: list[Architecture] | None = None):
    """Blocks truly cost their sensitivity times a factor."""
    table = measured()

    def divergence(architecture: Architecture) -> float:
        if asked is not None:
            asked.append(architecture)
        lost = {group for name in architecture.dropped for group in BLOCKS[name]}
        widths = architecture.complete(SIZES)
        narrow = sum(table.at(g, widths[g]) for g in SIZES if g not in lost)
        return narrow + factor * sum(ALONE[name] for name in architecture.dropped)

    return divergence


@pytest.mark.parametrize("factor", [0.125, 1.0, 8.0])
def test_the_models_are_as_good_as_with_the_true_factor(factor: float) -> None:
    plan, divergence = plan_of({"max": 1.0}), truth(factor)

    def total(table: Sensitivity) -> float:
        allocator = Allocator(plan.items, table.at, plan.loads, effort=0)
        made = (plan.space.architecture(allocator.at(load)) for load in loads(plan))
        return sum(math.log(divergence(architecture)) for architecture in made)

    found = balanced(measured(), plan, divergence)
    assert total(found) == pytest.approx(total(scaled(measured(), factor)))
    assert factor == 1.0 or total(found) < total(measured())
    ratios = [found.at(f"{BLOCK}{name}", 0) / value for name, value in ALONE.items()]
    assert ratios == pytest.approx(ratios[:1] * 3)
    assert (ratios[0] > 1.0, ratios[0] < 1.0) == (factor > 1.0, factor < 1.0)
    assert found.increases == measured().increases
    assert found == balanced(scaled(measured(), 0.5), plan, divergence)  # whatever it was before


def test_equal_models_are_built_once() -> None:
    asked: list[Architecture] = []
    balanced(measured(), plan_of({"max": 1.0}), truth(1.0, asked))
    assert len(asked) == len(set(asked)) < 2 * len(FACTORS)


def test_nothing_is_built_where_no_block_may_be_dropped() -> None:
    table = measured()
    assert balanced(table, plan_of(False), lambda _: pytest.fail("built")) is table


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_divergence_that_is_not_finite_is_the_worst(value: float) -> None:
    plan, divergence = plan_of({"max": 1.0}), truth(4.0)
    whole = scaled(measured(), 1.0)

    def broken(architecture: Architecture) -> float:
        return divergence(architecture) if architecture.dropped else value

    found = balanced(whole, plan, broken)
    assert found.at(f"{BLOCK}b0", 0) < 4.0 * ALONE["b0"]


@pytest.mark.parametrize(("share", "half_way"), [("25%", 2.0), ("50%", 2**0.5), ("100%", 1.0)])
def test_the_loads_are_the_limit_and_half_of_the_way_to_dense(share: str, half_way: float) -> None:
    assert loads(plan_of({"max": 1.0}, share)) == pytest.approx((1.0, half_way))
