"""What is known of a trial: which kind of trial it was, and its way through JSON."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.record import State, TrialRecord, as_uniform


def record(origin: str, state: State = "complete") -> TrialRecord:
    return TrialRecord(0, Candidate(Architecture()), state, seed=0, origin=origin)


@pytest.mark.parametrize(
    ("origin", "baseline", "counted", "reused", "converted"),
    [
        ("tpe", "", True, False, False),
        ("seed:least-0 projected", "", True, False, False),
        ("seed:uniform-0", "uniform", True, False, False),
        ("baseline:uniform-1", "uniform", False, False, False),
        ("baseline:random-0", "random", False, False, False),
        ("baseline:scratch-0", "scratch", False, False, False),
        ("baseline:smaller net-20", "smaller", False, False, False),
        ("converted from trial 3", "", False, False, True),
        ("from_run:7 tpe", "", False, True, False),
        ("from_run:7 seed:uniform-0", "uniform", False, True, False),
        ("from_run:7 baseline:random-0", "random", False, True, False),
        ("seed:least-1 uniform", "uniform", True, False, False),
        ("from_run:7 tpe projected uniform", "uniform", False, True, False),
        ("", "", True, False, False),
    ],
)
def test_the_origin_says_what_a_trial_counts_as(
    origin: str, baseline: str, counted: bool, reused: bool, converted: bool
) -> None:
    found = record(origin)
    assert found.baseline == baseline
    assert (found.is_counted, found.is_reused, found.is_converted) == (counted, reused, converted)


def test_what_has_the_candidate_of_a_uniform_baseline_is_marked_once() -> None:
    origins = ("seed:least-1", "seed:least-1 uniform", "seed:uniform-0", "baseline:uniform-1")
    assert [as_uniform(origin) for origin in origins] == [
        "seed:least-1 uniform",
        "seed:least-1 uniform",
        "seed:uniform-0",
        "baseline:uniform-1",
    ]


@pytest.mark.parametrize("state", ["stopped", "infeasible", "failed"])
def test_a_baseline_that_was_not_finished_is_none(state: State) -> None:
    assert record("baseline:uniform-0", state).baseline == ""


PHONE = Timing("phone", 8.0, None, Device("arm"), Confidence((7.9, 8.1)))
FULL = TrialRecord(
    number=4,
    candidate=Candidate(Architecture({"a": 3})),
    state="complete",
    seed=11,
    epochs=1.5,
    metrics={"accuracy": 0.75},
    history=({"epoch": 1.0, "loss": 0.5}, {"epoch": 1.5, "loss": 0.25}),
    predicted=Cost(macs=100),
    measured=Cost(macs=100, source="measured", timings=(PHONE,)),
    error="what went wrong\nand where",
    times={"train_s": 2.0},
    artifact="models/4",
    origin="tpe",
    optimizer="SGD",
)


@pytest.mark.parametrize("made", [FULL, record("tpe", "failed")])
def test_it_is_read_back_from_json(made: TrialRecord) -> None:
    again = TrialRecord.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.to_dict() == made.to_dict()


def test_it_is_printed_as_one_line_without_its_history() -> None:
    cost = replace(FULL, measured=Cost(macs=100, timings=(PHONE,)))
    assert repr(cost) == (
        "<trial 4; complete; tpe; epochs 1.5; accuracy 0.75; predicted: macs 100; "
        "measured: macs 100, latency_ms@phone 8>"
    )


def test_a_record_from_before_optimizers_were_noted_is_read() -> None:
    old = FULL.to_dict()
    del old["optimizer"]
    assert TrialRecord.from_dict(old).optimizer == ""


def test_records_and_costs_travel_between_processes_as_they_are() -> None:
    values = (FULL, FULL.candidate, FULL.measured, PHONE, PHONE.device, PHONE.confidence)
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value


def test_a_smaller_dense_model_is_called_by_its_name_and_others_by_their_number() -> None:
    names = [record(origin).title for origin in ("baseline:smaller net-20", "tpe")]
    assert names == ["net-20", "trial 0"]
