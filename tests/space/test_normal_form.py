"""Candidates that are built and trained alike are one candidate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.schedule import Schedule
from autoprune.space import FittedSpace, SearchSpace
from autoprune.space.normal_form import normal_form, unused

SPEC = {
    "ratios": {"max": 0.5},
    "depth": {"max": 1.0},
    "repair": [True, False],
    "importance": ["obs", "l2"],
    "schedule": {
        "kind": ["one_shot", "cubic"],
        "begin": [0.0, 0.2],
        "end": [0.3, 0.5],
        "steps": 4,
    },
    "recovery": {
        "optimizer": "sgd",
        "regularizer": [0.0, 1.0],
        "penalty": ["group_lasso", "slimming"],
        "rewarm": [False, True],
        "ema": [0.0, 0.99, 0.999],
        "distillation": [0.5, 1.0],
        "label_smoothing": [0.0, 0.1],
        "warmup": [0.05, 0.0],
    },
}
SIZES = {"a": 16, "b": 16}
SPACE = FittedSpace.of(SearchSpace.parse(SPEC), SIZES, blocks={"block": ("b",)})
FIRST = {p.name: p.choices[0] if p.choices else p.low for p in SPACE.parameters}

HALF = {"ratio.a": 0.5, "ratio.b": 0.5}
NOTHING: dict[str, object] = {}
BLOCK = {"drop.block": True}
CUBIC = {"schedule.kind": "cubic"}
LATE = {"schedule.begin": 0.2}
LASSO = {"recovery.regularizer": 1.0}
SLIMMING = {**LASSO, "recovery.penalty": "slimming"}
REWARM = {"recovery.rewarm": True}
END = {"schedule.end": 0.5}


def made(*changes: dict[str, object], space: FittedSpace = SPACE) -> Candidate:
    values = dict(FIRST)
    for change in changes:
        values |= change
    return space.candidate(values)


@pytest.mark.parametrize(
    ("start", "change"),
    [
        *((HALF, change) for change in (END, LASSO, REWARM)),
        *((NOTHING, {"importance": "l2"}), (NOTHING, {"repair": False})),
        *((NOTHING, change) for change in (CUBIC, LATE, LASSO, {**CUBIC, **END})),
        *((CUBIC, change) for change in (LASSO, SLIMMING, END, REWARM)),
        *((BLOCK, {"importance": "l2"}), (BLOCK, {"repair": False}), (BLOCK, CUBIC)),
        *(({**BLOCK, **CUBIC}, change) for change in (LASSO, SLIMMING, END, REWARM)),
        *(({**BLOCK, **LATE}, change) for change in (CUBIC, LASSO)),
        ({**HALF, "recovery.distillation": 1.0}, {"recovery.label_smoothing": 0.1}),
        ({**HALF, **CUBIC, "recovery.warmup": 0.0}, REWARM),
        ({**HALF, **CUBIC}, {"recovery.penalty": "slimming"}),
    ],
)
def test_what_changes_nothing_makes_no_other_candidate(
    start: dict[str, object], change: dict[str, object]
) -> None:
    one, other = made(start), made(start, change)
    assert one.key == other.key
    assert SPACE.candidate(SPACE.params(other)) == other
    assert SPACE.normal(other) == other


@pytest.mark.parametrize(
    ("start", "change"),
    [
        *((HALF, {"importance": "l2"}), (HALF, {"repair": False}), (HALF, CUBIC), (HALF, LATE)),
        *(({**HALF, **CUBIC}, change) for change in (LASSO, END, REWARM)),
        ({**HALF, **CUBIC, **LASSO}, {"recovery.penalty": "slimming"}),
        (HALF, {"recovery.label_smoothing": 0.1}),
        *((BLOCK, LATE), ({**BLOCK, **LATE}, SLIMMING)),
        ({**HALF, "recovery.ema": 0.99}, {"recovery.ema": 0.999}),
        (NOTHING, {"recovery.label_smoothing": 0.1}),
    ],
)
def test_what_changes_the_training_makes_another_candidate(
    start: dict[str, object], change: dict[str, object]
) -> None:
    one, other = made(start), made(start, change)
    assert one.key != other.key
    assert SPACE.candidate(SPACE.params(other)) == other


def test_blocks_go_with_the_first_removal_where_nothing_removes_all_at_once() -> None:
    schedule = {"kind": "cubic", "begin": 0.0, "end": [0.3, 0.5], "steps": [2, 4]}
    spec = {"depth": {"max": 1.0}, "schedule": schedule}
    space = FittedSpace.of(SearchSpace.parse(spec), SIZES, blocks={"block": ("b",)})
    drawn = [
        space.candidate({**BLOCK, "schedule.end": end, "schedule.steps": steps})
        for end in (0.3, 0.5)
        for steps in (2, 4)
    ]
    assert drawn[0].architecture.dropped == ("block",)
    assert {it.key for it in drawn} == {drawn[0].key}
    assert drawn[3].schedule == Schedule("cubic", 0.0, 0.3, 2)
    assert [stage.progress for stage in drawn[3].stages] == [0.0, 0.3]
    assert space.candidate(space.params(drawn[3])) == drawn[3]


def test_steps_that_rounding_makes_one_are_at_once() -> None:
    """One unit of 4 in cubic steps: the first takes 0.58 of it, which is the unit."""
    space = FittedSpace.of(SearchSpace.parse(SPEC), {"a": 4})
    values = {**FIRST, "ratio.a": 0.25}
    stepwise = space.candidate({**values, **CUBIC})
    assert stepwise.architecture.widths == {"a": 3}
    assert stepwise == space.candidate(values)
    assert stepwise.stages == ()


@pytest.mark.parametrize(("steps", "alike"), [(20, True), (2000, False)])
def test_a_short_training_has_a_warm_up_of_one_step_and_forgets_the_decay(
    steps: int, alike: bool
) -> None:
    """After 20 steps the decay is at most 21 / 30, after 2000 it is 0.9955."""
    space = replace(SPACE, steps=steps)
    pairs = [
        (made(HALF, CUBIC, space=space), made(HALF, CUBIC, REWARM, space=space)),
        (
            made(HALF, {"recovery.ema": 0.99}, space=space),
            made(HALF, {"recovery.ema": 0.999}, space=space),
        ),
    ]
    assert [one.key == other.key for one, other in pairs] == [alike, alike]
    assert made(HALF, space=space).recovery.ema == 0.0
    for one, other in pairs:
        assert space.candidate(space.params(other)) == other
        assert space.candidate(space.params(one)) == one


def test_of_a_range_of_decays_the_highest_stands_for_those_that_are_not_reached() -> None:
    space = SearchSpace.parse({"recovery": {"ema": {"min": 0.5, "max": 0.999}}})
    given = [Candidate(Architecture({"a": 2}), recovery=Recovery(ema=it)) for it in (0.6, 0.8, 0.9)]
    found = [normal_form(it, space, narrower=True, steps=20).recovery.ema for it in given]
    assert found == [0.6, 0.999, 0.999]


def test_candidates_of_other_spaces_have_a_normal_form_too() -> None:
    """As an earlier version wrote one: not pruned, with a schedule and an importance."""
    given = Candidate.planned(
        Architecture(SIZES),
        SIZES,
        selection=Selection("taylor", repair=False),
        schedule=Schedule("linear", 0.0, 0.4, 3),
        recovery=Recovery(regularizer=2.0, lr=0.5),
    )
    found = SPACE.normal(given)
    assert (found.selection, found.schedule, found.stages) == (Selection("obs"), Schedule(), ())
    assert found.recovery == Recovery(lr=0.5)
    pruned = Candidate(Architecture({"a": 8, "b": 8}), Selection("taylor"))
    assert SPACE.normal(pruned) == pruned


def test_unused_names_settings_of_the_recovery() -> None:
    gradual = Candidate.planned(
        Architecture({"a": 8}), {"a": 16}, schedule=Schedule("linear", 0.0, 0.4, 3)
    )
    assert unused(gradual, narrower=True) == {"penalty"}
    assert unused(gradual, narrower=True, steps=10) == {"penalty", "rewarm"}
    at_once = Candidate(Architecture({"a": 8}), recovery=Recovery(distillation=1.0))
    assert unused(at_once, narrower=True) == {"regularizer", "penalty", "rewarm", "label_smoothing"}


def test_a_draft_keeps_what_counts_once_it_is_smaller() -> None:
    draft = SPACE.draft({**FIRST, **CUBIC, **LASSO, "importance": "l2", "repair": False})
    assert draft != SPACE.normal(draft)
    small = SPACE.resized(draft, Architecture({"a": 8, "b": 16}))
    assert small == made({"ratio.a": 0.5}, CUBIC, LASSO, {"importance": "l2", "repair": False})
