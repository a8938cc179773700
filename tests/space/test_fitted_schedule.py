"""Schedules of a space: what removes at once and at the same time is one, and values come back."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from autoprune.schedule import Schedule
from autoprune.space import FittedSpace, SearchSpace
from autoprune.space.fitted_schedule import schedule_of, values_of

ALL = {
    "kind": ["one_shot", "linear", "cubic", "exponential"],
    "begin": [0.0, 0.25, 0.5],
    "end": [0.0, 0.25, 0.75],
    "steps": [1, 2, 4],
}


def made(spec: dict[str, object], **values: object) -> Schedule:
    space = SearchSpace.parse({"schedule": spec})
    return schedule_of(space, {**space.fixed, **{f"schedule.{k}": v for k, v in values.items()}})


@pytest.mark.parametrize("kind", ["linear", "cubic", "exponential"])
def test_one_removal_is_one_shot_whatever_the_curve(kind: str) -> None:
    assert made(ALL, kind=kind, begin=0.0, end=0.25, steps=1) == Schedule("one_shot", 0.25, 0.25, 1)
    assert made(ALL, kind=kind, begin=0.5, end=0.25, steps=4) == Schedule("one_shot", 0.5, 0.5, 1)
    assert made(ALL, kind=kind, begin=0.0, end=0.0, steps=2) == Schedule()
    assert made(ALL, kind=kind, begin=0.0, end=0.75, steps=2) == Schedule(kind, 0.0, 0.75, 2)


def test_without_one_shot_at_that_time_the_first_kind_stands_for_all() -> None:
    gradual = {**ALL, "kind": ["cubic", "linear"]}
    for kind in ("cubic", "linear"):
        assert made(gradual, kind=kind, begin=0.0, end=0.25, steps=1) == Schedule(
            "cubic", 0.25, 0.25, 1
        )
    early = {**ALL, "begin": 0.0}  # at 0.75 one_shot cannot be
    assert made(early, kind="linear", end=0.75, steps=1) == Schedule("linear", 0.75, 0.75, 1)
    assert made(early, kind="cubic", end=0.75, steps=1) == Schedule("linear", 0.75, 0.75, 1)


@pytest.mark.parametrize(
    "spec",
    [
        ALL,
        {**ALL, "kind": ["linear", "cubic"]},
        {**ALL, "begin": 0.25},
        {**ALL, "steps": [4, 1]},
        {**ALL, "end": [0.1, 0.45], "begin": 0.4, "steps": [2, 4]},
        {**ALL, "begin": {"min": 0.0, "max": 0.5}, "end": {"min": 0.2, "max": 0.8}},
        {**ALL, "steps": {"min": 1, "max": 6}},
    ],
)
def test_values_give_the_same_schedule_again_and_equal_removals_are_equal(
    spec: dict[str, object],
) -> None:
    space = SearchSpace.parse({"schedule": spec})
    options = [
        [p.name, *(p.choices or (p.low, (p.low + p.high) / 2, p.high))] for p in space.varied
    ]
    found: dict[object, Schedule] = {}
    for drawn in itertools.product(*(each[1:] for each in options)):
        values = {each[0]: value for each, value in zip(options, drawn, strict=True)}
        schedule = schedule_of(space, {**space.fixed, **values})
        again = values_of(space, schedule)
        assert schedule_of(space, {**space.fixed, **again}) == schedule
        assert found.setdefault(schedule.milestones(), schedule) == schedule
    assert len(found) > 2


def test_a_schedule_from_elsewhere_gets_near_values_or_is_refused() -> None:
    space = SearchSpace.parse({"schedule": {"kind": "linear", "begin": {"min": 0.1, "max": 0.3}}})
    assert values_of(space, Schedule("linear", 0.6, 0.8, 4)) == {"schedule.begin": 0.3}
    kinds = SearchSpace.parse({"schedule": {"kind": ["linear", "cubic"], "steps": [2, 4]}})
    with pytest.raises(ValueError, match="kind can be linear, cubic, got 'one_shot'"):
        values_of(kinds, Schedule())


def test_the_kind_task_follows_the_curve_of_the_space() -> None:
    spec = {"schedule": {"kind": ["task", "linear"], "end": 0.5, "steps": [1, 2]}}
    space = replace(SearchSpace.parse(spec), curve=lambda t: t**2)
    drawn = {**space.fixed, "schedule.kind": "task", "schedule.steps": 2}
    made = schedule_of(space, drawn)
    assert made.milestones() == ((0.0, 0.25), (0.5, 1.0))
    assert values_of(space, made) == {"schedule.kind": "task", "schedule.steps": 2}
    linear = {**drawn, "schedule.kind": "linear", "schedule.steps": 1}
    assert schedule_of(space, {**drawn, "schedule.steps": 1}) == schedule_of(space, linear)


def test_nothing_trains_before_a_removal_at_the_beginning() -> None:
    """So the regularizer counts for nothing, whatever the kind."""
    spec = {"schedule": ALL, "recovery": {"regularizer": [0.5, 1.0], "rewarm": [False, True]}}
    space = FittedSpace.of(SearchSpace.parse(spec), {"conv": 8})
    drawn = {"schedule.begin": 0.0, "schedule.end": 0.0, "schedule.steps": 4}
    keys = {
        space.candidate(
            {
                **drawn,
                "schedule.kind": kind,
                "recovery.regularizer": strength,
                "recovery.rewarm": rewarm,
            }
        ).key
        for kind in ("one_shot", "linear", "cubic")
        for strength in (0.5, 1.0)
        for rewarm in (False, True)
    }
    assert len(keys) == 1
