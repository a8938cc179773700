"""What trials have after their whole training, also those that were stopped."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.sampling.extrapolation import final_metrics
from autoprune.candidate import Candidate
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.schedule import Schedule

ACCURACY = Objective("accuracy", "maximize")
HALVES = Candidate(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))
EPOCHS = 4.0


def final(records: list[TrialRecord]) -> dict[int, float]:
    return final_metrics(records, ACCURACY, EPOCHS)


def record(
    number: int,
    state: str,
    entries: dict[float, float],
    origin: str = "",
    candidate: Candidate = HALVES,
) -> TrialRecord:
    """With an accuracy by epoch, the last one at the end."""
    history = tuple({"epoch": epoch, "accuracy": value} for epoch, value in entries.items())
    last = history[-1]
    return TrialRecord(
        number,
        candidate,
        state,  # type: ignore[arg-type]
        0,
        epochs=last["epoch"],
        metrics={"accuracy": last["accuracy"]},
        history=history,
        origin=origin,
    )


COMPLETE = [
    record(number, "complete", {1.0: end - gain, 2.0: end - gain / 2, 4.0: end})
    for number, (end, gain) in enumerate([(0.9, 0.1), (0.8, 0.2), (0.7, 0.4)])
]


def test_a_stopped_trial_has_the_median_gain_of_the_complete_ones_from_there() -> None:
    stopped = [
        record(3, "stopped", {1.0: 0.5}),
        record(4, "stopped", {1.0: 0.3, 2.0: 0.6}),
        record(5, "stopped", {1.5: 0.6}),  # pruned later: between both rungs
    ]
    found = final([*COMPLETE, *stopped])
    assert found == pytest.approx({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.7, 4: 0.7, 5: 0.75})


def test_what_is_not_known_is_left_out() -> None:
    early = record(3, "stopped", {0.5: 0.5})
    assert set(final([*COMPLETE, early])) == {0, 1, 2}
    assert final([record(3, "stopped", {1.0: 0.5})]) == {}  # nothing is complete
    failed = record(3, "failed", {1.0: 0.5})
    scratch = record(4, "complete", {1.0: 0.1, 4.0: 0.9}, origin="baseline:scratch")
    assert scratch.baseline == "scratch"
    assert set(final([*COMPLETE, failed, scratch])) == {0, 1, 2}


def test_training_counts_from_the_last_removal() -> None:
    """In steps to half of 4 epochs: 3 epochs are half of the training after it, 1 is before it."""
    made = Candidate.planned(
        HALVES.architecture, toy.SIZES, schedule=Schedule("linear", 0.0, 0.5, 3)
    )
    gradual = record(3, "complete", {1.0: 0.9, 3.0: 0.4, 4.0: 0.7}, candidate=made)
    stopped = [
        record(4, "stopped", {3.0: 0.5}, candidate=made),
        record(5, "stopped", {2.0: 0.5}),
        record(6, "stopped", {1.0: 0.5}),
        record(7, "stopped", {1.0: 0.5}, candidate=made),
    ]
    found = final([*COMPLETE, gradual, *stopped])
    # half-way, trials gained 0.05, 0.1, 0.2 and 0.3; after a quarter the first three 0.1, 0.2, 0.4
    assert {n: found[n] for n in (4, 5, 6)} == pytest.approx({4: 0.65, 5: 0.65, 6: 0.7})
    assert 7 not in found  # it was not yet as small
