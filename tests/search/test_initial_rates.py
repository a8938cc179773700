"""The learning rate of the first candidates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import toy

from autoprune._search.initial.rates import best_rate, other_rates
from autoprune._search.initial.seeding import recipe, seeds
from autoprune._search.plan import Limits, Plan
from autoprune.candidate import Candidate, Recovery
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder

ACCURACY = Objective("accuracy", "maximize")


@pytest.fixture
def plan() -> Plan:
    space = {"ratios": {"max": 0.8}, "round_to": 2, "recovery": {"lr": {"min": 0.001, "max": 0.1}}}
    return toy.make_plan(space=SearchSpace.parse(space), limits=Limits(trials=32))


def of(lr: object) -> FittedSpace:
    space = SearchSpace.parse({"ratios": {"max": 0.8}, "recovery": {"lr": lr}})
    return FittedSpace.of(space, toy.SIZES)


@pytest.mark.parametrize(
    ("lr", "found"),
    [
        ({"min": 0.001, "max": 0.1}, [0.0025, 0.04]),
        ({"min": 0.005, "max": 0.1}, [0.005, 0.04]),
        ({"min": 0.01, "max": 0.1}, [0.04]),
        (0.01, []),
        ([0.01, 0.04], []),
    ],
)
def test_other_rates_are_a_quarter_and_four_times_the_usual_one_within_the_range(
    lr: object, found: list[float]
) -> None:
    space = of(lr)
    usual = recipe(space)
    others = other_rates(usual, space)
    assert [other.recovery.lr for other in others] == pytest.approx(found)
    assert {other.architecture for other in others} <= {usual.architecture}


def record(number: int, origin: str, lr: float, accuracy: float, state: str) -> TrialRecord:
    candidate = replace(recipe(of(0.01)), recovery=Recovery(lr))
    metrics = {"accuracy": accuracy}
    return TrialRecord(number, candidate, state, 0, metrics=metrics, origin=origin)  # type: ignore[arg-type]


def test_the_best_rate_is_that_of_the_best_complete_trial_of_the_same_widths() -> None:
    first = record(0, "seed:uniform-0", 0.01, 0.7, "complete")
    lower = record(1, "seed:uniform-0-rate-0", 0.0025, 0.8, "complete")
    stopped = record(2, "seed:uniform-0-rate-1", 0.04, 0.9, "stopped")
    elsewhere = record(3, "seed:uniform-1", 0.02, 0.95, "complete")
    assert best_rate([first], ACCURACY) is None  # nothing to compare it with
    assert best_rate([first, lower, stopped, elsewhere], ACCURACY) == 0.0025
    reused = record(4, "from_run:1 seed:uniform-0-rate-0", 0.0025, 0.8, "complete")
    assert best_rate([first, reused], ACCURACY) == 0.0025
    error = Objective("error", "minimize")
    worst = [
        TrialRecord(n, r.candidate, "complete", 0, metrics={"error": e}, origin=r.origin)
        for n, r, e in ((0, first, 0.1), (1, lower, 0.2))
    ]
    assert best_rate(worst, error) == 0.01


def test_the_first_candidate_comes_at_three_rates_in_a_search_of_some_length(plan: Plan) -> None:
    found = seeds(plan)
    assert [p.origin for p in found[:4]] == [
        *("seed:uniform-0", "seed:uniform-0-rate-0", "seed:uniform-0-rate-1", "seed:uniform-1")
    ]
    assert [p.candidate.recovery.lr for p in found[:4]] == pytest.approx([0.01, 0.0025, 0.04, 0.01])
    short = toy.make_plan(space=plan.space.space, limits=Limits(trials=15))
    assert not any("rate" in p.origin for p in seeds(short))
    few = Limits(trials=32, total_epochs=40.0)  # ten trials of four epochs
    assert not any("rate" in p.origin for p in seeds(toy.make_plan(limits=few)))


def best_at(rate: float) -> object:
    """Accuracies that fall with the distance from a rate."""

    def accuracy(candidate: Candidate) -> float:
        lr = candidate.recovery.lr or 0.0
        return toy.height(candidate) * (1.0 if abs(lr - rate) < 1e-9 else 0.5)

    return accuracy


def test_all_that_follow_have_the_best_rate_also_after_a_resume(tmp_path: Path, plan: Plan) -> None:
    folder = RunFolder.create(tmp_path / "run", {"task": "digits", "budget": {"macs": "50%"}}, {})
    first = seeds(plan)
    hand = toy.Hand(folder, plan, first, accuracy=best_at(0.0025))  # type: ignore[arg-type]
    rates = [candidate.recovery.lr for candidate in hand.play(4)]
    assert rates == pytest.approx([0.01, 0.0025, 0.04, 0.0025])
    hand.close()
    again = toy.Hand(folder, plan, first, accuracy=best_at(0.0025))  # type: ignore[arg-type]
    (candidate,) = again.play(1)
    again.close()
    assert candidate.recovery.lr == pytest.approx(0.0025)
    assert candidate.architecture == first[4].candidate.architecture


def test_an_earlier_run_gives_the_best_rate_to_what_follows(tmp_path: Path, plan: Plan) -> None:
    """Its uniform candidates are not tried again, so that the queue has none of them."""
    cost = toy.price(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))
    folder = RunFolder.create(tmp_path / "run", {"task": "digits", "budget": {"macs": "50%"}}, {})
    first = seeds(plan)
    for number, (origin, lr) in enumerate(
        [("seed:uniform-0", 0.01), ("seed:uniform-0-rate-0", 0.0025)]
    ):
        known = record(number, f"from_run:{number} {origin}", lr, 0.9 - 10 * lr, "complete")
        folder.append(replace(known, predicted=cost, epochs=plan.epochs))
    later = [replace(it, origin=f"seed:least-{n}") for n, it in enumerate(first[-2:])]
    hand = toy.Hand(folder, plan, later)
    rates = [candidate.recovery.lr for candidate in hand.play(2)]
    hand.close()
    assert rates == pytest.approx([0.0025, 0.0025])
