"""Rungs count the training since the last removal."""

from __future__ import annotations

import pytest

from autoprune._search.trials.evaluations import evaluations, rung_at
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.schedule import Schedule

MILESTONES = (1.0, 2.0, 4.0)


def candidate(schedule: Schedule) -> Candidate:
    return Candidate.planned(Architecture({"a": 20}), {"a": 200}, schedule=schedule)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Schedule(), (1.0, 2.0, 4.0)),
        (Schedule("one_shot", 0.25, 0.25), (2.0, 3.0, 4.0)),
        (Schedule("cubic", 0.0, 0.25, 3), (2.0, 3.0, 4.0)),
        (Schedule("linear", 0.1, 0.5, 2), (3.0, 4.0)),  # the second one is its end
        (Schedule("linear", 0.0, 0.75, 4), (4.0,)),
        (Schedule("linear", 0.0, 0.9, 4), (4.0,)),
    ],
)
def test_each_rung_is_as_far_from_the_last_removal(
    schedule: Schedule, wanted: tuple[float, ...]
) -> None:
    assert evaluations(MILESTONES, candidate(schedule)) == wanted


def test_a_removal_that_rounding_left_nothing_for_is_none() -> None:
    """One unit of 8 at shares 1/3, 2/3 and 1 is gone with the second one, after a quarter."""
    schedule = Schedule("linear", 0.0, 0.5, 3)
    made = Candidate.planned(Architecture({"a": 7}), {"a": 8}, schedule=schedule)
    assert [stage.architecture.widths["a"] for stage in made.stages] == [8, 7, 7]
    assert evaluations(MILESTONES, made) == (2.0, 3.0, 4.0)


def test_without_rungs_only_the_end_is_evaluated() -> None:
    assert evaluations((3.0,), candidate(Schedule("one_shot", 0.5, 0.5))) == (3.0,)


def test_an_entry_belongs_to_its_rung_unless_it_is_too_early_or_the_end() -> None:
    late = candidate(Schedule("linear", 0.0, 0.25, 2))
    assert [rung_at(MILESTONES, late, epochs) for epochs in (2.0, 3.0, 4.0)] == [0, 1, None]
    assert rung_at(MILESTONES, late, 2.1) == 0  # rounded up to whole steps
    assert rung_at(MILESTONES, late, 1.0) is None  # of the whole training, as in earlier runs


def test_an_entry_that_was_trained_longer_than_its_rung_is_not_compared_at_it() -> None:
    """As of an earlier run with other rungs."""
    plain = candidate(Schedule())
    assert rung_at(MILESTONES, plain, 1.5) == 0
    assert rung_at(MILESTONES, plain, 1.5, later=0.1) is None
    assert rung_at(MILESTONES, plain, 1.05, later=0.1) == 0
    assert rung_at(MILESTONES, plain, 2.0, later=0.1) == 1  # by its epochs, not by its place
    assert rung_at(MILESTONES, plain, 4.0, later=0.1) is None
