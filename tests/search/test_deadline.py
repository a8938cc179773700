"""The time limit of a search."""

from __future__ import annotations

import pytest

from autoprune._search.state import deadline as module
from autoprune._search.state.deadline import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; it moves only when a test sets it."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_earlier_sessions_count(clock: list[float]) -> None:
    deadline = Deadline(100.0, before_s=40.0, since=990.0)
    assert (deadline.elapsed_s, deadline.left_s) == (50.0, 50.0)
    clock[0] += 25.0
    assert (deadline.elapsed_s, deadline.left_s) == (75.0, 25.0)


def test_a_session_begins_now_where_nothing_else_is_said(clock: list[float]) -> None:
    deadline = Deadline(None)
    assert deadline.elapsed_s == 0.0
    clock[0] += 3.0
    assert deadline.elapsed_s == 3.0


@pytest.mark.parametrize(
    ("at", "is_over", "comes"), [(60.0, False, False), (61.0, False, True), (101.0, True, True)]
)
def test_it_comes_within_some_time_or_is_over(
    clock: list[float], at: float, is_over: bool, comes: bool
) -> None:
    deadline = Deadline(100.0, since=1000.0 - at)
    assert (deadline.is_over, deadline.comes_within(40.0)) == (is_over, comes)


def test_the_very_moment_is_not_over(clock: list[float]) -> None:
    assert not Deadline(100.0, since=900.0).is_over


def test_overtime_counts_from_a_multiple_of_the_limit(clock: list[float]) -> None:
    deadline = Deadline(100.0, since=850.0)
    assert deadline.overtime_s() == 50.0
    assert deadline.overtime_s(times=2.0) == -50.0


def test_without_a_limit_it_never_comes(clock: list[float]) -> None:
    deadline = Deadline(None, before_s=1e9)
    assert deadline.left_s is None
    assert not deadline.is_over
    assert not deadline.comes_within(1e9)
    assert deadline.overtime_s() < 0.0
