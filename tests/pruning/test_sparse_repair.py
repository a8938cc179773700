"""Repair of sparse weights against least squares on the data, and what is cut with a model."""

from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.sparse_repair import (
    cut_like,
    moments_after,
    repair_rows,
)
from autoprune.pruning.surgery import prune


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_what_is_left_of_a_row_is_fitted_to_the_data(seed: int, has_bias: bool) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 3, bias=has_bias))
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
    x = torch.randn(200, 5, generator=generator) * torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0]) @ turned
    x = x + torch.randn(5, generator=generator)  # correlated, but not so that the ridge counts
    mask = torch.rand(3, 5, generator=generator) < 0.4
    layer, before = model[0], model(x).detach().double().numpy()
    with torch.no_grad():
        moment = calibrate(model, [x]).moments["0.weight"]
        repair_rows(model, "0.weight", mask.float(), moment, predict_statistics=True)
    assert (layer.weight[mask] == 0.0).all()
    design = x.double().numpy()
    for row in range(3):
        kept = np.flatnonzero(~mask[row].numpy())
        columns = design[:, kept]
        columns = np.hstack([columns, np.ones((200, 1))]) if has_bias else columns
        if not columns.shape[1]:
            continue
        fit = np.linalg.lstsq(columns, before[:, row], rcond=None)[0]
        wanted = ((columns @ fit - before[:, row]) ** 2).mean()
        found = ((model(x)[:, row].detach().double().numpy() - before[:, row]) ** 2).mean()
        assert found <= wanted + 1e-3 * before[:, row].var()  # the ridge


def test_a_norm_behind_takes_the_shift_and_the_variance() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    x = torch.randn(64, 2, 3, 3) + torch.tensor([1.0, -2.0])[:, None, None]
    conv, norm = model[0], model[1]
    with torch.no_grad():
        y = conv(x)
        norm.running_mean.copy_(y.mean((0, 2, 3)))
        norm.running_var.copy_(y.var((0, 2, 3), correction=0))
        moment = calibrate(model, [x]).moments["0.weight"]
        mask = torch.zeros_like(conv.weight)
        mask[:, 0] = 1.0
        fixed = copy.deepcopy(model)
        repair_rows(model, "0.weight", mask, moment, predict_statistics=True)
        repair_rows(fixed, "0.weight", mask, moment, predict_statistics=False)
        after = conv(x)
        torch.testing.assert_close(norm.running_mean, after.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, after.var((0, 2, 3), correction=0))
        torch.testing.assert_close(fixed[1].running_var, y.var((0, 2, 3), correction=0))


def test_groups_are_fitted_to_their_own_inputs() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2)), torch.randn(100, 4, 1)
    x[:, 1] = 2.0 * x[:, 0]  # within the first group the second input says the same
    with torch.no_grad():
        before = model(x)
        moment = calibrate(model, [x]).moments["0.weight"]
        mask = torch.zeros_like(model[0].weight)
        mask[:, 1] = 1.0
        repair_rows(model, "0.weight", mask, moment, predict_statistics=True)
        torch.testing.assert_close(model(x)[:, :2], before[:, :2], rtol=1e-3, atol=1e-3)
        assert (model(x) - before)[:, 2:].abs().max() > 0.1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 8, 2)
        self.grouped, self.head = nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.b(self.a(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_moments_and_tensors_are_cut_as_the_model_is() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(8, 2, 6, 6)
    graph, calibration = trace(model, x), calibrate(model, [x])
    kept = {"a": (0, 2, 5), "b": (1, 3)}  # of b the same channels of both groups
    cut = moments_after(graph, kept, calibration)
    gradients = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = cut_like({**gradients, "gone": torch.zeros(2)}, graph, kept)
    prune(model, graph, kept)
    for name, parameter in model.named_parameters():
        assert torch.equal(gradients[name], parameter)
    assert "gone" not in gradients
    fresh = calibrate(model, [x]).moments
    assert set(cut) == set(fresh)
    assert {name: tuple(it.covariance.shape) for name, it in cut.items()} == {
        "a.weight": (1, 18, 18),
        "b.weight": (1, 12, 12),
        "grouped.weight": (2, 2, 2),
        "head.weight": (1, 8, 8),
    }
    # what a makes is what it made: the inputs of b that are left are as they were
    torch.testing.assert_close(cut["b.weight"].covariance, fresh["b.weight"].covariance)
    torch.testing.assert_close(cut["b.weight"].mean, fresh["b.weight"].mean)
