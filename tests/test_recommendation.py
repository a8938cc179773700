"""Which model is recommended."""

from __future__ import annotations

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective, ParetoFront
from autoprune.quality import QualityLimit
from autoprune.recommendation import distance, recommend, violations
from autoprune.record import TrialRecord

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
DENSE = {"accuracy": 0.90}
ONE_PERCENT = QualityLimit("accuracy", "relative drop", 0.01)  # at least 0.891


def record(number: int, accuracy: float, macs: int, **metrics: float) -> TrialRecord:
    return TrialRecord(
        number,
        Candidate(Architecture({"conv": number + 1})),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy, **metrics},
        predicted=Cost(macs=macs),
    )


RECORDS = (record(0, 0.90, 90), record(1, 0.892, 60), record(2, 0.80, 20), record(3, 0.5, 5))
FRONT = ParetoFront(OBJECTIVES, RECORDS)


def test_it_is_the_cheapest_within_the_loss_and_not_the_knee() -> None:
    found = recommend(FRONT, DENSE, [ONE_PERCENT])
    assert found is not None
    assert FRONT.knee is not None
    assert (found.record.number, found.within, found.is_within) == (1, (1, 0), True)
    assert FRONT.knee.number == 2


def test_an_absolute_limit_takes_the_place_of_the_loss() -> None:
    found = recommend(FRONT, DENSE, [QualityLimit("accuracy", ">=", 0.75)])
    assert found is not None
    assert found.record.number == 2


def test_another_metric_is_a_limit_too() -> None:
    records = (record(0, 0.90, 90, recall=0.8), record(1, 0.892, 60, recall=0.6))
    front = ParetoFront(OBJECTIVES, records)
    found = recommend(front, DENSE, [ONE_PERCENT, QualityLimit("recall", ">=", 0.7)])
    assert found is not None
    assert found.record.number == 0


def test_where_none_is_within_the_best_is_the_nearest() -> None:
    found = recommend(FRONT, {"accuracy": 0.99}, [ONE_PERCENT])
    assert found is not None
    assert (found.record.number, found.is_within, found.within) == (0, False, ())


RECALL = QualityLimit("recall", ">=", 0.8)
HALF = QualityLimit("loss", "<=", 0.5)


@pytest.mark.parametrize(
    ("limits", "number", "broken"),
    [
        # recall: 0.4 of 0.8 is lacking, and 0.1 of 0.8
        ([RECALL], 1, ("recall",)),
        # and the loss: 0.05 of 0.5 too much, which makes 0.6, and 0.4, which makes 0.925
        ([RECALL, HALF], 0, ("recall", "loss")),
        ([QualityLimit("missing", ">=", 0.8)], 0, ("missing",)),  # as far: the better one
    ],
)
def test_where_none_is_within_the_nearest_lacks_least(
    limits: list[QualityLimit], number: int, broken: tuple[str, ...]
) -> None:
    records = (
        record(0, 0.90, 90, recall=0.4, loss=0.55),
        record(1, 0.85, 60, recall=0.7, loss=0.9),
    )
    found = recommend(ParetoFront(OBJECTIVES, records), DENSE, limits)
    assert found is not None
    assert (found.record.number, found.is_within, found.broken) == (number, False, broken)


def test_a_drop_is_a_share_of_its_bound() -> None:
    limit = QualityLimit("accuracy", "drop", 0.1)  # at least 0.8 of a dense 0.9
    assert distance({"accuracy": 0.6}, DENSE, [limit], OBJECTIVES) == pytest.approx(0.2 / 0.8)
    loss = (Objective("loss", "minimize"),)
    limit = QualityLimit("loss", "drop", 0.25)  # at most 0.5 of a dense 0.25
    assert distance({"loss": 0.6}, {"loss": 0.25}, [limit], loss) == pytest.approx(0.1 / 0.5)


def test_without_the_dense_metric_it_is_the_knee() -> None:
    found = recommend(FRONT, {}, [ONE_PERCENT])
    assert found is not None
    assert (found.record.number, found.unknown, found.is_within) == (2, "accuracy", False)


def test_an_empty_front_has_none() -> None:
    assert recommend(ParetoFront(OBJECTIVES, ()), DENSE, [ONE_PERCENT]) is None


def test_less_may_be_better() -> None:
    objectives = (Objective("loss", "minimize"), Objective("macs"))
    records = (
        TrialRecord(
            0,
            Candidate(Architecture()),
            "complete",
            0,
            metrics={"loss": 1.0},
            predicted=Cost(macs=9),
        ),
        TrialRecord(
            1,
            Candidate(Architecture()),
            "complete",
            0,
            metrics={"loss": 1.05},
            predicted=Cost(macs=5),
        ),
    )
    limit = QualityLimit("loss", "relative drop", 0.1)
    found = recommend(ParetoFront(objectives, records), {"loss": 1.0}, [limit])
    assert found is not None
    assert found.record.number == 1


def test_a_missing_metric_breaks_its_limit() -> None:
    limits = [QualityLimit("recall", ">=", 0.5)]
    assert violations({"accuracy": 0.9}, {}, limits, OBJECTIVES) == {"recall >= 0.5": 1.0}
    assert violations({"recall": 0.4}, {}, limits, OBJECTIVES) == {
        "recall >= 0.5": pytest.approx(0.1)
    }
