"""What chance makes of shares of the validation samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from views import config, measured, trial, view_of

from autoprune.budget import Cost
from autoprune.report.sampling_error import (
    Neighbor,
    allowed_loss,
    apart,
    error_of_difference,
    nearest,
)
from autoprune.store import DenseReport

DENSE = DenseReport({"accuracy": 0.9}, Cost(macs=200), measured(10.0))


def test_the_error_of_a_difference_adds_both_variances() -> None:
    # 0.5 * 0.5 / 100 = 0.0025, 0.8 * 0.2 / 100 = 0.0016
    assert error_of_difference(0.5, 0.8, 100) == pytest.approx(math.sqrt(0.0041))


def test_models_without_errors_count_as_if_they_had_one() -> None:
    # one sample of 100 has the variance 0.01
    assert error_of_difference(1.0, 1.0, 100) == pytest.approx(math.sqrt(2 * 0.01 / 100))


def test_a_difference_is_told_in_samples() -> None:
    assert apart(2 / 300, 300) == "they differ by 0.67 pt, as much as 2 samples"


def test_the_nearest_is_that_of_the_recommended_model_whatever_its_cost() -> None:
    values = (0.7, 0.895, 0.91, 0.905)  # the cheapest within 1 % of 0.9 is trial 1
    records = [trial(n, v, 4.0 + n) for n, v in enumerate(values)]
    view = view_of(*records)
    assert view.recommendation is not None
    assert view.recommendation.record.number == 1
    assert nearest(view) == Neighbor(2, 0.91)  # trial 3 is dominated
    assert nearest(view_of(records[1])) is None
    assert nearest(view_of()) is None


@pytest.mark.parametrize(
    ("quality", "loss"),
    [
        ({}, 0.009),  # 1 % of 0.9
        ({"accuracy": "drop <= 2 pt"}, 0.02),
        ({"accuracy": [">= 0.87", "drop <= 5 pt"]}, 0.03),
        ({"accuracy": ">= 0.95"}, None),
    ],
)
def test_the_allowed_loss_is_that_of_the_tightest_limit(
    quality: dict[str, object], loss: float | None
) -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=DENSE)
    found = allowed_loss(replace(view, config=config({"latency_ms": "80%"}, quality=quality)))
    assert found == (None if loss is None else pytest.approx(loss))
