"""The moving average of weights against the formula, and what it leaves alone."""

import pytest
import torch
from torch import nn

from autoprune.training.averaging import MovingAverage


def test_the_average_follows_the_formula():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.9)
    wanted = model.weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.fill_(float(step % 7))
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * (step % 7)
    assert average.model.weight.item() == pytest.approx(wanted, rel=1e-5)
    assert average.updates == 199


def test_statistics_are_averaged_and_counts_are_copied():
    model = nn.BatchNorm1d(2)
    average = MovingAverage(model, 0.5)
    model.running_mean.fill_(8.0)
    model.num_batches_tracked.fill_(7)
    average.update(model)
    share = 1 - 2 / 11
    assert average.model.running_mean.tolist() == pytest.approx([8.0 * share] * 2)
    assert average.model.num_batches_tracked.item() == 7


def test_the_model_is_not_shared():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    average = MovingAverage(model, 0.5)
    assert not average.model.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in average.model.parameters())
    average.model[0].weight.add_(1.0)
    assert not torch.equal(average.model[0].weight, model[0].weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_must_lie_between_0_and_1(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \(0, 1\)"):
        MovingAverage(nn.Linear(1, 1), decay)
