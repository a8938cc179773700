"""Which trial a word or a limit means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.architecture import Architecture
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
        candidate=Candidate(Architecture({"conv": number + 1})),
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


def timed(number: int, accuracy: float, phone: float, server: float) -> TrialRecord:
    """Measured on the server only: half of what was predicted there."""
    predicted = (Timing("phone", phone, None, DEVICE), Timing("server", 2 * server, None, DEVICE))
    return TrialRecord(
        number=number,
        candidate=Candidate(Architecture({"conv": number + 1})),
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
    predicted_only=("phone",),
)


@pytest.mark.parametrize(
    ("front", "text", "number"),
    [
        (FRONT, "knee", 4),
        (FRONT, "best", 1),
        (FRONT, "fastest", 4),
        (FRONT, "trial=2", 2),
        (FRONT, "trial = 3", 3),
        (FRONT, "trial 3", 3),
        (FRONT, " 2 ", 2),
        (FRONT, "Knee", 4),
        (FRONT, "latency_ms<=4.4", 1),
        (FRONT, "latency_ms<4.4", 4),  # trial 1 has 4.4
        (FRONT, "latency_ms≤4.4", 1),
        (FRONT, "macs<=25, macs<=200", 3),
        (FRONT, "macs<=200, macs<=25", 3),
        (FRONT, "accuracy>=0.8,", 4),
        (FRONT, "accuracy=>0.8, MAX accuracy", 1),
        (FRONT, "accuracy ≥ 0.8", 4),
        (FRONT, "accuracy>0.85", 1),  # trial 4 has 0.85
        (FRONT, "accuracy<0.85", 3),
        (FRONT, "latency_ms <= 1.3 ms", 4),
        (FRONT, "latency_ms<=4300 us", 4),
        (FRONT, "macs<=25", 3),
        (FRONT, "macs <= 0.05 k, latency_ms <= 2", 4),
        (FRONT, "recommended", 4),  # none was given: the knee
        (FRONT, "accuracy>=0.8", 4),  # the cheapest, not the best
        (FRONT, "accuracy >= 80%, max accuracy", 1),
        (FRONT, "accuracy>=0.5, min latency_ms", 4),  # by measurement
        (FRONT, "min macs", 3),
        (FRONT, "macs<=50, accuracy>=0.7", 4),
        (SEVERAL, "best", 1),
        (SEVERAL, "accuracy>=0.75, min latency_ms@server", 1),
        (SEVERAL, "Fastest@phone", 2),
        (SEVERAL, "fastest@server", 3),
        (SEVERAL, "latency_ms@phone<=8", 1),
        (SEVERAL, "latency_ms@phone<=7 ms", 2),
        (SEVERAL, "latency_ms@server <= 0.9, latency_ms@phone <= 7", 3),
    ],
)
def test_pick(front: ParetoFront, text: str, number: int) -> None:
    assert pick(front, text).number == number


@pytest.mark.parametrize(
    ("front", "text", "error", "message"),
    [
        (
            FRONT,
            "nee",
            UsageError,
            r"pick must be recommended, knee, fastest, best, trial=N, .* got 'nee'",
        ),
        (FRONT, ",", UsageError, "pick must be recommended, knee"),
        (FRONT, "accuracy>==0.9", UsageError, "pick must be recommended, knee"),
        (FRONT, "accuracy>=nan", UsageError, "needs a number such as 0.9 or 90%, got 'nan'"),
        (FRONT, "accuracy<=inf", UsageError, "needs a number such as 0.9 or 90%"),
        (
            FRONT,
            "accuracy>=0.9 min macs",
            UsageError,
            "commas separate limits and a goal, got 'accuracy>=0.9 min macs'",
        ),
        (FRONT, "macs<=2 k accuracy>=0.9", UsageError, "commas separate limits and a goal"),
        (FRONT, "macs<=much, macs<=2 k", BudgetError, "cannot read 'much'"),
        (FRONT, "trial=x", UsageError, "pick must be recommended, knee"),
        (FRONT, "latency_ms<=", UsageError, "pick must be recommended, knee"),
        (FRONT, "latency_ms<=50%", UsageError, "latency_ms needs an absolute limit"),
        (FRONT, "latency<=3", UsageError, "'latency' is neither a metric .* nearest: latency_ms"),
        (FRONT, "acuracy>=0.9", UsageError, "neither a metric nor a cost · nearest: accuracy"),
        (FRONT, "macs>=3", UsageError, "macs is a cost and takes <="),
        (FRONT, "accuracy>=much", UsageError, "needs a number such as 0.9 or 90%"),
        (FRONT, "min macs, min latency_ms", UsageError, "takes one goal"),
        (FRONT, "accuracy>=0.95", StoreError, "has accuracy>=0.95 · highest accuracy: 0.9"),
        (FRONT, "trial=9", StoreError, "no trial 9 · on the front: 3, 4, 1"),
        (FRONT, "latency_ms<=1", StoreError, "lowest: latency_ms 1.2"),
        (FRONT, "fastest@phone", BudgetError, "no device has a name · write latency_ms"),
        (
            SEVERAL,
            "fastest",
            UsageError,
            "pick fastest must say on which device, .* e.g. fastest@phone",
        ),
        (SEVERAL, "fastest@phon", BudgetError, "no device is called 'phon' · nearest: phone"),
        (SEVERAL, "latency_ms<=3", BudgetError, "must say on which device, one of phone, server"),
        (
            SEVERAL,
            "latency_ms@sever<=3",
            BudgetError,
            "no device is called 'sever' · nearest: server",
        ),
        (SEVERAL, "latency_ms@server<=0.1", StoreError, "lowest: latency_ms@server 0.5"),
        (SEVERAL, "best@phone", UsageError, "pick must be recommended, knee"),
        (ParetoFront(OBJECTIVES, ()), "knee", StoreError, "the front is empty"),
    ],
)
def test_what_does_not_fit_is_refused(
    front: ParetoFront, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pick(front, text)


def test_latency_limit_uses_the_latency_of_the_front() -> None:
    predicted = ParetoFront(OBJECTIVES, RECORDS, source="predicted")
    assert pick(predicted, "latency_ms<=4.2").number == 1
    assert pick(FRONT, "latency_ms<=4.2").number == 4


def test_fastest_falls_back_to_the_prediction() -> None:
    records = (record(1, 0.9, 100, 2.0, None), record(2, 0.8, 50, 3.0, None))
    assert pick(ParetoFront(OBJECTIVES, records), "fastest").number == 1


def test_number_may_name_a_trial_beside_the_front() -> None:
    members_only = ParetoFront(OBJECTIVES, FRONT.members)
    assert pick(members_only, "trial=2", RECORDS).number == 2


def test_the_recommended_one_is_what_was_found() -> None:
    assert pick(FRONT, " recommended ", recommended=RECORDS[0]).number == 1


@pytest.mark.parametrize(("batch", "rate"), [(1, 800), (2, 1600)])
def test_a_latency_may_be_a_rate_of_samples(batch: int, rate: int) -> None:
    device = replace(DEVICE, batch=batch)
    records = [replace(it, measured=replace(it.measured, device=device)) for it in RECORDS]
    records = [replace(it, predicted=replace(it.predicted, device=device)) for it in records]
    front = replace(FRONT, records=tuple(records))
    assert pick(front, f"latency_ms<={rate} fps").number == 4  # at most 1.25 ms: 4 has 1.2
    with pytest.raises(StoreError, match="no model on the front has"):
        pick(front, f"latency_ms<={2 * rate} fps")
