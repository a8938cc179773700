"""What trials have after their whole training, also those that were stopped."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.sampling.extrapolation import final_metrics
from autoprune.candidate import Candidate
from autoprune.pareto import Objective
from autoprune.record import TrialRecord

ACCURACY = Objective("accuracy", "maximize")
HALVES = Candidate(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))


def record(number: int, state: str, entries: dict[float, float], origin: str = "") -> TrialRecord:
    """With an accuracy by epoch, the last one at the end."""
    history = tuple({"epoch": epoch, "accuracy": value} for epoch, value in entries.items())
    last = history[-1]
    return TrialRecord(
        number,
        HALVES,
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
    found = final_metrics([*COMPLETE, *stopped], ACCURACY)
    assert found == pytest.approx({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.7, 4: 0.7, 5: 0.75})


def test_what_is_not_known_is_left_out() -> None:
    early = record(3, "stopped", {0.5: 0.5})
    assert set(final_metrics([*COMPLETE, early], ACCURACY)) == {0, 1, 2}
    assert final_metrics([record(3, "stopped", {1.0: 0.5})], ACCURACY) == {}  # nothing is complete
    failed = record(3, "failed", {1.0: 0.5})
    scratch = record(4, "complete", {1.0: 0.1, 4.0: 0.9}, origin="baseline:scratch")
    assert scratch.baseline == "scratch"
    assert set(final_metrics([*COMPLETE, failed, scratch], ACCURACY)) == {0, 1, 2}
