"""How much is pruned when."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.schedule import CURVES, MOST_STEPS, Schedule


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("linear", (1 / 4, 2 / 4, 3 / 4, 1.0)),
        ("cubic", (37 / 64, 56 / 64, 63 / 64, 1.0)),  # 1 - (1 - t)^3
        # (1 - e^-5t) / (1 - e^-5), by a table of e^-x
        ("exponential", (0.7183347, 0.9241418, 0.9831073, 1.0)),
    ],
)
def test_each_curve_at_its_quarters(kind: str, shares: tuple[float, ...]) -> None:
    made = Schedule(kind, begin=0.1, end=0.7, steps=4).milestones()
    assert [at for at, _ in made] == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert [share for _, share in made] == pytest.approx(list(shares), abs=1e-6)


def test_one_shot_removes_all_at_the_beginning_whatever_end_and_steps_say() -> None:
    assert Schedule("one_shot", 0.2, 0.6, 5).milestones() == ((0.2, 1.0),)


@pytest.mark.parametrize(("end", "steps"), [(0.3, 1), (0.2, 4)])
def test_a_single_removal_takes_place_at_the_end(end: float, steps: int) -> None:
    assert Schedule("cubic", 0.2, end, steps).milestones() == ((end, 1.0),)


@given(
    kind=st.sampled_from(sorted(CURVES)),
    ends=st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.99)).map(sorted),
    steps=st.integers(1, MOST_STEPS),
)
def test_removals_only_add_up_and_the_last_one_is_whole(
    kind: str, ends: list[float], steps: int
) -> None:
    begin, end = ends
    made = Schedule(kind, begin, end, steps).milestones()
    times, shares = zip(*made, strict=True)
    assert list(times) == sorted(times)
    assert begin <= times[0]
    assert times[-1] == pytest.approx(begin if kind == "one_shot" else end)
    assert all(0.0 < a < b for a, b in itertools.pairwise(shares))
    assert shares[-1] == 1.0
    assert len(made) in (1, steps)


def test_it_is_read_back_from_json() -> None:
    made = Schedule("linear", 0.1, 0.5, 3)
    assert made.to_dict() == {"kind": "linear", "begin": 0.1, "end": 0.5, "steps": 3}
    assert Schedule(**made.to_dict()) == made


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"kind": "sudden"},
            "schedule.kind must be one of one_shot, linear, cubic, exponential, task, got 'sudden'",
        ),
        (
            {"kind": "linear", "begin": 0.5, "end": 0.4},
            "schedule must hold 0 <= begin <= end < 1 (progress of training), got begin=0.5, "
            "end=0.4",
        ),
        (
            {"end": 1.0},
            "schedule must hold 0 <= begin <= end < 1 (progress of training), got begin=0.0, "
            "end=1.0",
        ),
        (
            {"begin": math.nan, "end": 0.5},
            "schedule must hold 0 <= begin <= end < 1 (progress of training), got begin=nan, "
            "end=0.5",
        ),
        (
            {"kind": "task", "end": 0.5, "steps": 2},
            "a schedule's curve must rise from at least 0 to 1 over its 2 steps, got no shares",
        ),
        (
            {"kind": "task", "end": 0.5, "steps": 2, "shares": (0.7, 0.6)},
            "a schedule's curve must rise from at least 0 to 1 over its 2 steps, got 0.7, 0.6",
        ),
        (
            {"kind": "linear", "end": 0.5, "steps": 2, "shares": (0.7, 1.0)},
            "schedule.shares are for the kind task, got 'linear'",
        ),
        ({"steps": 0}, "schedule.steps must lie in [1, 100], got 0"),
        ({"steps": 10**12}, "schedule.steps must lie in [1, 100], got 1000000000000"),
    ],
)
def test_what_is_no_schedule_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match="schedule") as caught:
        Schedule(**fields)
    assert str(caught.value) == says


def test_a_curve_of_ones_own_is_kept_as_its_shares() -> None:
    made = Schedule.of_curve(lambda t: t**2, 0.2, 0.6, 3)
    assert made.shares == (round(1 / 9, 12), round(4 / 9, 12), 1.0)
    assert [at for at, _ in made.milestones()] == pytest.approx([0.2, 0.4, 0.6])
    assert [share for _, share in made.milestones()] == list(made.shares)
    assert Schedule(**json.loads(json.dumps(made.to_dict()))) == made
    assert "shares" not in Schedule("cubic", 0.0, 0.5, 2).to_dict()
    assert Schedule.of_curve(lambda t: t * (1.0 + 1e-15), 0.0, 0.5, 2).shares[-1] == 1.0
