"""The rate of a long training: which are tried, for how long, and which one wins."""

import math

import pytest

from autoprune._retraining.rates import COST, FACTORS, find_rate
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import TrainingError


def candidate(optimizer="sgd"):
    return Candidate(Architecture({"a": 3}), recovery=Recovery(lr=0.04, optimizer=optimizer))


@pytest.mark.parametrize("best", FACTORS)
def test_the_best_factor_wins(best):
    def train(one, epochs):
        grown = min(4.0, math.sqrt(16.0 / epochs))  # what the rate was divided by
        return -abs(math.log(one.recovery.lr * grown / (0.04 * best)))

    told = []
    found = find_rate(candidate(), 16.0, train, told.append)
    assert found.lr == pytest.approx(0.04 * best)
    assert list(found.tried) == told
    assert [t.epochs for t in told] == [1.0] * 4 + [2.0] * 2
    assert sum(t.epochs for t in told) == COST * 16.0
    assert {t.factor for t in told[4:]} > {best}


def test_short_trainings_of_sgd_have_lower_rates_and_those_of_adamw_the_same():
    sgd = find_rate(candidate(), 16.0, lambda one, epochs: 0.0).tried
    assert [t.lr for t in sgd[:4]] == pytest.approx([0.0025, 0.005, 0.01, 0.02])
    assert sgd[4].lr == pytest.approx(0.01 / math.sqrt(8.0))
    adamw = find_rate(candidate("adamw"), 16.0, lambda one, epochs: 0.0).tried
    assert [t.lr for t in adamw[:4]] == pytest.approx([0.01, 0.02, 0.04, 0.08])


def test_what_diverges_is_the_worst():
    def train(one, epochs):
        if one.recovery.lr > 0.0075:
            raise TrainingError("training loss must be finite")
        return one.recovery.lr

    found = find_rate(candidate(), 16.0, train)
    assert found.lr == pytest.approx(0.02)
    assert [t.score is None for t in found.tried[:4]] == [False, False, True, True]


def test_where_all_diverge_the_error_names_the_rates():
    def train(one, epochs):
        raise TrainingError("training loss must be finite")

    with pytest.raises(TrainingError, match=r"0.0025, 0.005, 0.01, 0.02 · give .*--lr.*be finite"):
        find_rate(candidate(), 16.0, train)
