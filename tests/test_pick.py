"""Which trial a word or a limit means."""

from __future__ import annotations

import pytest

from autoprune.budget import Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.errors import BudgetError, StoreError, UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.pick import pick
from autoprune.record import TrialRecord

DEVICE = Device("bench")


def record(number: int, accuracy: float, macs: int, predicted: float, measured: float | None):
    return TrialRecord(
        number=number,
        candidate=Candidate({"conv": number / 100}),
        state="complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=Cost(macs=macs, latency_ms=predicted, device=DEVICE),
        measured=measured and Cost(macs=macs, latency_ms=measured, device=DEVICE),
    )


# trial 2 is dominated by trial 1; by measurement trial 4 is the fastest, by prediction trial 3.
RECORDS = (
    record(1, 0.90, 100, predicted=4.0, measured=4.4),
    record(2, 0.80, 120, predicted=4.5, measured=4.6),
    record(3, 0.60, 20, predicted=1.0, measured=1.5),
    record(4, 0.85, 30, predicted=1.1, measured=1.2),
)
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
FRONT = ParetoFront(OBJECTIVES, RECORDS, source="measured")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("knee", 4),
        ("best", 1),
        ("fastest", 4),
        ("trial=2", 2),
        ("trial = 3", 3),
        ("latency_ms<=4.4", 1),
        ("latency_ms <= 1.3 ms", 4),
        ("latency_ms<=4300 us", 4),
        ("macs<=25", 3),
        ("macs <= 0.05 k, latency_ms <= 2", 4),
    ],
)
def test_pick(text: str, number: int) -> None:
    assert pick(FRONT, text).number == number


def test_latency_limit_uses_the_latency_of_the_front() -> None:
    predicted = ParetoFront(OBJECTIVES, RECORDS, source="predicted")
    assert pick(predicted, "latency_ms<=4.2").number == 1
    assert pick(FRONT, "latency_ms<=4.2").number == 4


def test_fastest_falls_back_to_the_prediction() -> None:
    records = (record(1, 0.9, 100, 2.0, None), record(2, 0.8, 50, 3.0, None))
    assert pick(ParetoFront(OBJECTIVES, records), "fastest").number == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nee", UsageError, "pick must be knee, fastest, best, trial=N .* got 'nee'"),
        ("trial=x", UsageError, "pick must be knee"),
        ("latency_ms<=", UsageError, "pick must be knee"),
        ("latency_ms<=50%", UsageError, "latency_ms needs an absolute limit"),
        ("latency<=3", BudgetError, "pick.latency is not a cost"),
        ("trial=9", StoreError, "no trial 9 · on the front: 3, 4, 1"),
        ("latency_ms<=1", StoreError, "lowest: latency_ms 1.2"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pick(FRONT, text)


def test_number_may_name_a_trial_beside_the_front() -> None:
    members_only = ParetoFront(OBJECTIVES, FRONT.members)
    assert pick(members_only, "trial=2", RECORDS).number == 2


def test_empty_front_is_said() -> None:
    with pytest.raises(StoreError, match="the front is empty"):
        pick(ParetoFront(OBJECTIVES, ()), "knee")


def timed(number: int, accuracy: float, phone: float, server: float) -> TrialRecord:
    """Measured on the server only: half of what was predicted there."""
    predicted = (Timing("phone", phone, None, DEVICE), Timing("server", 2 * server, None, DEVICE))
    return TrialRecord(
        number=number,
        candidate=Candidate({"conv": number / 100}),
        state="complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=Cost(source="predicted", timings=predicted),
        measured=Cost(source="measured", timings=(Timing("server", server, None, DEVICE),)),
    )


SEVERAL = ParetoFront(
    (
        Objective("accuracy", "maximize"),
        Objective("latency_ms@phone"),
        Objective("latency_ms@server"),
    ),
    (timed(1, 0.9, 8.0, 1.0), timed(2, 0.8, 4.0, 1.5), timed(3, 0.7, 6.0, 0.5)),
    source="measured",
    elsewhere=("phone",),
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("best", 1),
        ("fastest@phone", 2),
        ("fastest@server", 3),
        ("latency_ms@phone<=8", 1),
        ("latency_ms@phone<=7 ms", 2),
        ("latency_ms@server <= 0.9, latency_ms@phone <= 7", 3),
    ],
)
def test_pick_on_a_named_device(text: str, number: int) -> None:
    assert pick(SEVERAL, text).number == number


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("fastest", UsageError, "pick fastest must say on which device, .* e.g. fastest@phone"),
        ("fastest@phon", BudgetError, "no device is called 'phon' · nearest: phone"),
        ("latency_ms<=3", BudgetError, "must say on which device, one of phone, server"),
        ("latency_ms@sever<=3", BudgetError, "no device is called 'sever' · nearest: server"),
        ("latency_ms@server<=0.1", StoreError, "lowest: latency_ms@server 0.5"),
        ("best@phone", UsageError, "pick must be knee"),
    ],
)
def test_pick_on_several_devices_refuses_what_is_not_clear(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pick(SEVERAL, text)


def test_pick_names_a_device_only_where_devices_have_names() -> None:
    with pytest.raises(BudgetError, match="no device has a name · write latency_ms"):
        pick(FRONT, "fastest@phone")
