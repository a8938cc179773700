"""Operators that are called with code: seen as they are, and nothing is compiled under a mode."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from autoprune.cost.analytic import count, count_cost
from autoprune.cost.model import CostModel
from autoprune.graph import mode, trace
from autoprune.graph.mode import again_uncompiled
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.one_shot import prune_model
from autoprune.pruning.verification import prunable


class Branches(nn.Module):
    """One of two functions of a layer's result, by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.relu(self.a(x)))
        return self.c(torch.cond(h.sum() > 0, torch.sin, torch.cos, (h,)))


X = torch.ones(2, 4)


def test_what_goes_into_code_is_frozen_and_the_rest_is_pruned() -> None:
    net = Branches().eval()
    graph = prunable(net, X)
    assert graph.sizes() == {"a": 8}
    assert {f.name: f.reason for f in graph.frozen}["b"] == "cond is not understood"
    small = prune_model(net, X, 0.5)
    assert (small.a.out_features, small.b.out_features) == (4, 6)
    with torch.no_grad():
        assert net(X).shape == small(X).shape == (2, 3)  # PyTorch still compiles them


def test_code_is_not_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Branches().eval()
    with caplog.at_level(logging.WARNING):
        cost = count_cost(net, X)
    assert "no formula for cond x1" in caplog.text
    assert cost.macs == 2 * (4 * 8 + 8 * 6 + 6 * 3)
    assert count(net, X).uncounted == {"cond": 1}
    assert CostModel(trace(net, X)).dense == cost


def test_layers_around_code_are_calibrated() -> None:
    found = calibrate(Branches(), [X])
    assert set(found.moments) == {"a.weight", "b.weight", "c.weight"}


_FIRST = """
import torch
from torch import nn
from autoprune.cost.analytic import count
from autoprune.graph.mode import is_loaded
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.verification import prunable

class Net(nn.Linear):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (super().forward(x),))

net, x = Net(4, 3).eval(), torch.ones(2, 4)
assert not is_loaded()
"""


@pytest.mark.parametrize(
    "first",
    [
        "assert not prunable(net, x).groups",
        "assert count(net, x).uncounted == {'cond': 1}",
        "assert list(calibrate(net, [x]).moments) == ['weight']",
    ],
)
def test_the_first_use_of_the_compiler_leaves_it_usable(first: str) -> None:
    code = f"{_FIRST}\n{first}\nassert net(x).shape == (2, 3)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_run_that_loads_the_compiler_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = iter([False, True])
    runs: list[int] = []
    monkeypatch.setattr(mode, "is_loaded", lambda: next(loaded))

    def run() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("compiled under a mode")
        return len(runs)

    assert again_uncompiled(run) == 2


def test_an_error_without_the_compiler_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "is_loaded", lambda: False)
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        raise ValueError("the model's own")

    with pytest.raises(ValueError, match="own"):
        again_uncompiled(run)
    assert len(runs) == 1
