"""Why a model is recommended, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from views import config, measured, trial, view_of

from autoprune.budget import Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.report.why import limits_in_words, why
from autoprune.store import DenseReport, RetrainingSummary, Spread


def test_why_says_how_many_there_were() -> None:
    view = view_of(trial(0, 0.9, 6.0), trial(1, 0.895, 5.0), trial(2, 0.7, 4.0))
    assert why(view) == (
        "the lowest measured latency of the 2 models with accuracy ≥ 89.10 % (dense less 1 % of it)"
    )
    only = view_of(trial(0, 0.9, 6.0), trial(2, 0.7, 4.0))
    assert why(only).startswith(
        "the only model of the front with accuracy ≥ 89.10 % (dense less 1 % of it)"
    )


def test_nothing_is_said_without_a_front() -> None:
    assert (why(view_of()), limits_in_words(view_of())) == ("", "")


def test_the_nearest_is_called_so() -> None:
    assert why(view_of(trial(0, 0.88, 5.0))) == (
        "no model of the front has accuracy ≥ 89.10 % (dense less 1 % of it); this one is the "
        "nearest"
    )


def test_what_the_nearest_reached_by_retraining_is_added() -> None:
    reached = {"accuracy": Spread(0.9, 0.01)}
    done = RetrainingSummary(0, {}, 20.0, (0,), reached, validation=reached)
    view = replace(view_of(trial(0, 0.88, 5.0)), retrained=(done,))
    assert why(view).endswith(
        "this one is the nearest, and has 90.00 % on validation data after 20 epochs of retraining"
    )


def test_an_unknown_dense_model_leaves_the_knee() -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=DenseReport())
    assert why(view) == "the knee: the dense model's accuracy is not known"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"recommend": "drop <= 2 pt"}, "accuracy ≥ 88.00 % (dense less 2.00 pt)"),
        ({"recommend": "drop <= 0.5 %"}, "accuracy ≥ 89.55 % (dense less 0.5 % of it)"),
        ({"recommend": ">= 0.85"}, "accuracy ≥ 85.00 %"),
        (
            {"quality": {"loss": "<= 0.5", "accuracy": [">= 80 %", "drop <= 3 pt"]}},
            "loss ≤ 0.5 and accuracy ≥ 80.00 % and accuracy ≥ 87.00 % (dense less 3.00 pt)",
        ),
    ],
)
def test_limits_are_said_with_what_they_come_to(more: dict, words: str) -> None:
    record = trial(0, 0.9, 5.0, metrics={"accuracy": 0.9, "loss": 0.4})
    dense = DenseReport({"accuracy": 0.9, "loss": 0.4}, None, measured(10.0))
    view = replace(view_of(record, dense=dense), config=config({"latency_ms": "80%"}, **more))
    assert limits_in_words(view) == words
    assert why(view) == f"the only model of the front with {words}"


def test_the_bound_of_a_loss_lies_above_it() -> None:
    record = trial(0, 0, 5.0, metrics={"loss": 0.4})
    dense = DenseReport({"loss": 0.4}, None, measured(10.0))
    front = ParetoFront((Objective("loss"), Objective("latency_ms")), (record,), source="measured")
    view = replace(view_of(record, dense=dense), front=front)
    assert limits_in_words(view) == "loss ≤ 0.404 (dense plus 1 % of it)"


def test_counts_are_neither_measured_nor_predicted() -> None:
    records = (
        trial(0, 0.9, None, predicted=Cost(macs=80)),
        trial(1, 0.895, None, predicted=Cost(macs=40)),
    )
    front = ParetoFront((Objective("accuracy", "maximize"), Objective("macs")), records)
    view = replace(view_of(*records), front=front)
    assert why(view).startswith("the lowest MACs of the 2 models with accuracy ≥ 89.10 %")
