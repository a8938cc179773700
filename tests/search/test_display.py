"""What a running search shows of itself."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.plan import Limits
from autoprune._search.state.deadline import Deadline
from autoprune._search.state.display import Display
from autoprune._search.state.pace import Pace
from autoprune._search.state.progress import Snapshot
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord

PLAN = toy.make_plan(reference=(0.0, 2000.0))


class Shown(list[Snapshot]):
    def update(self, snapshot: Snapshot) -> None:
        self.append(snapshot)


def front(*accuracies: float) -> ParetoFront:
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    records = tuple(
        TrialRecord(
            number,
            candidate,
            "complete",
            0,
            metrics={"accuracy": accuracy},
            predicted=toy.Cost(params=1, macs=1000 + number),
        )
        for number, accuracy in enumerate(accuracies)
    )
    return ParetoFront(PLAN.objectives, records, PLAN.reference)


def shown(front: ParetoFront) -> tuple[Snapshot, float]:
    there = Shown()
    deadline = Deadline(100.0, before_s=40.0)
    display = Display(there, Limits(trials=8), deadline, Pace())
    volume = display.take(front)
    counts = {"complete": 3, "infeasible": 5, "failed": 1}
    display.show("search", "a note", counts, running=2, epochs=7.5)  # type: ignore[arg-type]
    return there[-1], volume


def test_trials_are_shown_by_state() -> None:
    snapshot, _ = shown(front(0.5))
    assert (snapshot.phase, snapshot.note, snapshot.trials) == ("search", "a note", 8)
    assert (snapshot.complete, snapshot.stopped, snapshot.failed) == (3, 0, 1)
    assert (snapshot.running, snapshot.infeasible, snapshot.done) == (2, 5, 4)
    assert snapshot.epochs == 7.5


def test_the_time_that_is_left_is_that_until_the_limit() -> None:
    snapshot, _ = shown(front(0.5))
    assert 40.0 <= snapshot.elapsed_s < 60.0
    assert snapshot.left_s == pytest.approx(100.0 - snapshot.elapsed_s, abs=1.0)


def test_the_members_of_the_front_are_shown_by_cost_with_their_hypervolume() -> None:
    snapshot, volume = shown(front(0.5, 0.75))
    assert snapshot.front == (
        {"number": 0, "accuracy": 0.5, "macs": 1000.0},
        {"number": 1, "accuracy": 0.75, "macs": 1001.0},
    )
    assert snapshot.hypervolume == volume == 0.75 * 999.0 + 0.5


def test_an_empty_front_has_no_hypervolume_to_show() -> None:
    snapshot, volume = shown(front())
    assert (snapshot.front, snapshot.hypervolume, volume) == ((), None, 0.0)
