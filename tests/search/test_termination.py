"""When a search ends."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.plan import Limits
from autoprune._search.state.termination import Termination
from autoprune.record import TrialRecord

LIMITS = Limits(trials=10, total_epochs=40.0, seconds=90.0, equal_failures=2, patience=2)


def reached(termination: Termination, **changes: object) -> str:
    told: dict[str, object] = {"trials": 9, "epochs": 40.0, "late": False, **changes}
    return termination.reached(**told)  # type: ignore[arg-type]


def end(termination: Termination, at: float, error: str | None = None, origin: str = "tpe") -> None:
    state = "failed" if error else "complete"
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    record = TrialRecord(0, candidate, state, 0, error=error, origin=origin)
    termination.note(record, started=at - 0.5, ended=at, volume=1.0)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, ""),
        ({"trials": 10}, "10 trials"),
        ({"epochs": 40.0 * (1 + 1e-10)}, ""),  # a sum of rungs
        ({"epochs": 40.1}, "40 epochs"),
        ({"late": True}, "1.5 minutes"),
        ({"trials": 10, "epochs": 50.0, "late": True}, "10 trials"),
        ({"epochs": 50.0, "late": True}, "40 epochs"),
    ],
)
def test_the_first_limit_that_is_reached_is_named(told: dict[str, object], said: str) -> None:
    assert reached(Termination(LIMITS, volume=0.0), **told) == said


def test_one_of_a_limit_is_singular() -> None:
    one = Limits(trials=1, total_epochs=1.0, seconds=60.0)
    assert reached(Termination(one, volume=0.0), trials=1) == "1 trial"
    assert reached(Termination(one, volume=0.0), trials=0, epochs=2.0) == "1 epoch"
    assert reached(Termination(one, volume=0.0), trials=0, epochs=0.5, late=True) == "1 minute"


def test_a_request_comes_first() -> None:
    termination = Termination(LIMITS, volume=0.0)
    assert not termination.is_closed
    termination.close()
    assert termination.is_closed
    assert reached(termination, trials=10, late=True) == "an interrupt"


def test_failures_for_one_reason_end_it() -> None:
    termination = Termination(LIMITS, volume=0.0)
    for at in (1.0, 2.0):
        assert termination.stuck is None
        end(termination, at, "E: a")
    assert termination.stuck == "E: a"
    assert reached(termination) == "equal failures"


def test_trials_without_progress_end_it_where_they_count() -> None:
    termination = Termination(LIMITS, volume=1.0)
    for at in (1.0, 2.0, 3.0):
        end(termination, at, origin="baseline:uniform")
    end(termination, 4.0)
    assert reached(termination) == ""
    end(termination, 5.0)
    assert reached(termination) == "no progress in 2 trials"
