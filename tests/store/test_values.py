"""What the files of a run hold: limits in absolute units, candidates checked when they are read."""

from __future__ import annotations

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost
from autoprune.candidate import Candidate
from autoprune.errors import BudgetError, StoreError
from autoprune.pareto import Objective
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import GroupInfo, Groups, RetrainingSummary, SearchPlan
from autoprune.store.files import checked, plain

SPACE = FittedSpace.of(
    SearchSpace.parse({"ratios": {"max": 0.5}, "recovery": {"lr": [0.1, 0.2]}}),
    {"a": 8},
    blocks={"body": ("a",)},
)
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
DENSE = Cost(params=100, macs=2000)


def test_limits_and_levels_of_a_plan_are_absolute() -> None:
    budget = Budget.parse({"macs": "50%", "params": 90}, "budget")
    levels = budget.lowered(("40%", 500), "levels")
    plan = SearchPlan.of(OBJECTIVES, (0.1, 2000.0), (budget, *levels), SPACE, DENSE, Cost(macs=9))
    assert plan.limits == {"macs": 1000, "params": 90}
    assert plan.levels == (800, 500)
    assert (plan.dense, plan.smallest) == (DENSE, Cost(macs=9))


def test_a_share_of_an_unknown_cost_is_refused() -> None:
    budget = Budget.parse({"latency_ms": "50%"}, "budget")
    with pytest.raises(BudgetError, match="latency_ms"):
        SearchPlan.of(OBJECTIVES, (0.1, 1.0), (budget,), SPACE, DENSE)


def test_a_plan_is_read_back_with_its_space() -> None:
    plan = SearchPlan(OBJECTIVES, (0.1, 2000.0), {"macs": 1000.0}, (800.0,), SPACE, DENSE)
    assert checked(plain(plan), SearchPlan, "plan.json") == plan


def test_the_sizes_of_groups_are_in_their_order() -> None:
    groups = Groups((GroupInfo("b", "channel", 4), GroupInfo("a", "ffn", 9)))
    assert list(groups.sizes.items()) == [("b", 4), ("a", 9)]
    assert Groups().sizes == {}


WHOLE = Candidate(Architecture({"a": 3})).to_dict()


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        ({}, "candidate: architecture is missing"),
        (
            {**WHOLE, "schedule": {"kind": "sudden"}},
            "candidate: schedule.kind must be one of one_s",
        ),
        ({**WHOLE, "schedule": {"kinds": "linear"}}, "candidate: Schedule.__init__() got an unexp"),
        (
            {**WHOLE, "schedule": {"kind": "linear", "end": 0.5, "steps": 10**9}},
            "candidate: schedule.steps must lie in [1, 100], got 1000000000",
        ),
        ({**WHOLE, "selection": None}, "candidate: "),
        ({**WHOLE, "stages": [[0.5]]}, "candidate: not enough values to unpack"),
        (3, "candidate: must be an instance of Candidate, got 3"),
    ],
)
def test_a_damaged_candidate_says_what_is_wrong_with_it(candidate: object, says: str) -> None:
    content = {"number": 1, "candidate": candidate, "epochs": 1.0, "seeds": [0], "test": {}}
    with pytest.raises(StoreError) as caught:
        checked(content, RetrainingSummary, "f")
    assert str(caught.value).startswith(f"f is damaged: {says}")
    assert "\n" not in str(caught.value)
