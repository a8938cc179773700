from dataclasses import replace

import toy

from autoprune._search.initial.seeding import recipe
from autoprune._search.initial.sparse_seeds import sparse_seeds
from autoprune._search.plan import Plan
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost
from autoprune.candidate import Candidate
from autoprune.patterns import WeightCurve
from autoprune.space import FittedSpace, SearchSpace

KINDS = ["dense", "unstructured", "2:4"]
CURVE = (0.0, 0.5, 1.0)  # zeros are spread evenly
DENSE = Architecture(toy.SIZES)


def price(architecture: Architecture, fields: object = None) -> Cost:
    """A file of 100 bytes a unit; a weight of half of it can have zeros, which cost nothing."""
    units = sum(architecture.widths.get(name, size) for name, size in toy.SIZES.items())
    zeros = {"2:4": 0.5}.get(p := architecture.patterns.get("w", "0"))
    zeros = float(p) if zeros is None else zeros
    return Cost(macs=units, file_bytes=round(100 * units * (1.0 - zeros)))


def plan_of(budget: dict[str, str], kinds: list[str] | None = None, **bounds: float) -> Plan:
    spec = {"ratios": {"max": 0.8}, "round_to": 2}
    if kinds != []:
        spec["patterns"] = {"kinds": kinds or KINDS, "sparsity": bounds or {"max": 0.9}}
    plan = toy.make_plan(price=price, dense=price(DENSE), budget=Budget.parse(budget))
    weights = {"w": WeightCurve(1000, 8, CURVE)}
    return replace(plan, space=FittedSpace.of(SearchSpace.parse(spec), toy.SIZES, weights=weights))


def start(plan: Plan) -> Candidate:
    return plan.space.resized(recipe(plan.space), DENSE)


def found(plan: Plan) -> dict[str, Architecture]:
    return {kind: made.architecture for kind, made in sparse_seeds(plan, start(plan))}


def test_there_is_one_for_each_kind_but_the_dense_one() -> None:
    made = found(plan_of({"macs": "100%"}))
    assert list(made) == ["unstructured", "2:4"]
    assert made["2:4"].patterns == {"w": "2:4"}
    assert found(plan_of({"macs": "100%"}, [])) == {}


def test_without_a_limit_on_the_file_it_is_the_middle_of_the_range() -> None:
    made = found(plan_of({"macs": "100%"}, min=0.2, max=0.8))["unstructured"]
    assert dict(made.patterns) == {"w": "0.5"}
    assert dict(made.widths) == toy.SIZES


def test_with_one_it_is_the_lowest_sparsity_that_meets_the_budget() -> None:
    made = found(plan_of({"file_bytes": "70%"}, min=0.0, max=0.8))["unstructured"]
    assert dict(made.patterns) == {"w": "0.32"}  # steps of 0.04: 0.28 is too little
    assert dict(made.widths) == toy.SIZES


def test_where_zeros_are_not_enough_units_go_too() -> None:
    plan = plan_of({"file_bytes": "30%"})
    made = found(plan)
    assert list(made) == ["unstructured", "2:4"]
    halved = made["2:4"]
    assert halved.patterns == {"w": "2:4"}
    assert price(halved).get("file_bytes") <= 0.3 * price(DENSE).get("file_bytes")
    assert sum(halved.widths.values()) <= 0.6 * sum(toy.SIZES.values())
    assert made["unstructured"].patterns["w"] > "0.7"


def test_what_cannot_be_brought_within_the_budget_is_left_out() -> None:
    assert found(plan_of({"macs": "1%"})) == {}
