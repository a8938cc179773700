from __future__ import annotations

import pytest
from stripes import Stripes

from autoprune.training.optimiser import learning_rate, sgd


def test_only_matrices_decay() -> None:
    model = Stripes().build_model()
    decay = {
        id(p): group["weight_decay"] for group in sgd(model).param_groups for p in group["params"]
    }
    found = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert found["0.weight"] == found["9.weight"] == 5e-4
    assert found["1.weight"] == found["1.bias"] == found["9.bias"] == 0.0


def test_frozen_parameters_are_not_trained() -> None:
    model = Stripes().build_model()
    model[0].weight.requires_grad_(False)
    trained = {id(p) for group in sgd(model).param_groups for p in group["params"]}
    assert id(model[0].weight) not in trained
    assert len(trained) == 7


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_the_rate_is_positive_reaches_its_peak_and_falls(total: int) -> None:
    rates = [learning_rate(0.3, step, total) for step in range(total)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.3)
    assert peak <= max(0, total // 20)
    assert min(rates) > 0.0
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
