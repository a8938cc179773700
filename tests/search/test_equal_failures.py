"""Failures in a row for one reason."""

from __future__ import annotations

import toy

from autoprune._search.state.equal_failures import EqualFailures
from autoprune.record import TrialRecord


def note(failures: EqualFailures, error: str | None, at: float, took: float = 0.5) -> None:
    state = "complete" if error is None else "failed"
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    failures.note(TrialRecord(0, candidate, state, 0, error=error), started=at - took, ended=at)


def test_reasons_are_alike_where_only_numbers_and_tracebacks_differ() -> None:
    failures = EqualFailures(3)
    note(failures, "KeyError: 'x'", 0.0)
    for step in (7, 8):
        note(failures, f"TrainingError: loss is nan at step {step} of 0x7f{step}\nTrace", step)
    assert failures.reason is None
    note(failures, "TrainingError: loss is nan at step 9 of 0x7f9", 9.0)
    assert failures.reason == "TrainingError: loss is nan at step 9 of 0x7f9"


def test_a_success_starts_the_count_anew() -> None:
    failures = EqualFailures(2)
    for at, error in enumerate(("E: a", None, "E: a", None, "E: a")):
        note(failures, error, at)
    assert failures.reason is None


def test_another_reason_starts_the_count_anew() -> None:
    failures = EqualFailures(2)
    for at, error in enumerate(("E: a", "E: b", "E: a")):
        note(failures, error, at)
    assert failures.reason is None
    note(failures, "E: a", 9.0)
    assert failures.reason == "E: a"


def test_trials_that_ran_when_one_failed_count_as_one_failure() -> None:
    failures = EqualFailures(2)
    for at in (10.0, 10.1, 10.2):  # a node was lost
        note(failures, "the worker died", at, took=5.0)
    assert failures.reason is None
    note(failures, "the worker died", 16.0, took=5.0)
    assert failures.reason == "the worker died"


def test_zero_is_never() -> None:
    failures = EqualFailures(0)
    for at in range(20):
        note(failures, "E: a", at)
    assert failures.reason is None


def test_a_failure_without_a_reason_is_alike_another_one() -> None:
    failures = EqualFailures(2)
    for at in range(2):
        note(failures, "", at)
    assert failures.reason == "no reason known"
