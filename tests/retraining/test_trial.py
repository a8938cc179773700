"""A retraining's learning rate follows its length."""

from __future__ import annotations

import pytest

from autoprune._retraining.trial import _for_length
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.config import RunConfig
from autoprune.training.optimizers import rate_for_length

SHORT = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}, "search": {"epochs": 2}})


def candidate(**recovery: object) -> Candidate:
    return Candidate(Architecture({"a": 3}), recovery=Recovery(**recovery))  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "rate"), [(1.0, 0.01), (2.0, 0.01), (8.0, 0.02), (200.0, 0.04)])
def test_the_rate_of_sgd_grows_with_the_square_root_of_the_length(
    epochs: float, rate: float
) -> None:
    before = candidate(lr=0.01, optimizer="sgd", distillation=0.25)
    after = _for_length(before, SHORT, epochs)
    assert after.recovery == Recovery(lr=rate, optimizer="sgd", distillation=0.25)
    assert after.architecture == before.architecture


def test_a_high_rate_does_not_grow_further() -> None:
    assert rate_for_length(Recovery(lr=0.06, optimizer="sgd"), 1.0, 16.0) == 0.1
    assert rate_for_length(Recovery(lr=0.3, optimizer="sgd"), 1.0, 16.0) == 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "task", "auto"])
def test_other_optimizers_keep_their_rate(optimizer: str) -> None:
    before = candidate(lr=0.001, optimizer=optimizer)
    assert _for_length(before, SHORT, 20.0) == before
