"""How long a trial may take."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.state.trial_timeout import TrialTimeout
from autoprune.record import State, TrialRecord


def record(state: State, **times: float) -> TrialRecord:
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    return TrialRecord(0, candidate, state, 0, times=times)


def test_it_is_an_hour_until_a_trial_has_ended_well() -> None:
    timeout = TrialTimeout(None)
    assert timeout.seconds == 3600.0
    timeout.note(record("failed", train_s=99.0))
    timeout.note(record("infeasible"))
    assert timeout.seconds == 3600.0


def test_it_is_ten_times_the_slowest_trial_and_two_minutes_at_least() -> None:
    timeout = TrialTimeout(None)
    found = []
    for state, train_s in (("complete", 1.0), ("stopped", 50.0), ("complete", 20.0)):
        timeout.note(record(state, train_s=train_s))  # type: ignore[arg-type]
        found.append(timeout.seconds)
    assert found == [120.0, 500.0, 500.0]


def test_building_and_evaluating_count_and_waiting_does_not() -> None:
    slow = record("complete", build_s=20.0, train_s=30.0, evaluate_s=10.0, wall_s=1000.0)
    assert TrialTimeout(None, [slow]).seconds == 600.0


@pytest.mark.parametrize("given", [0.0, 7.0])
def test_a_time_out_that_is_given_holds(given: float) -> None:
    assert TrialTimeout(given, [record("complete", train_s=50.0)]).seconds == given
