"""ONNX Runtime's memory plan against layouts drawn by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.cost import packing, workspace
from autoprune.cost.liveness import liveness
from autoprune.cost.model import CostModel
from autoprune.cost.packing import Interval, Packing
from autoprune.graph import trace


def plan(*intervals: tuple[int, int, int]) -> Packing:
    """Of (first moment, last moment, column); all of one rank."""
    return Packing((), tuple(Interval(first, last, column, 4) for first, last, column in intervals))


def test_a_chain_needs_its_two_largest_neighbours():
    chain = plan((1, 3, 0), (3, 5, 1), (5, 7, 2))
    assert chain.size([40.0, 10.0, 30.0]) == 50.0  # the third fits where the first was


def test_a_gap_that_is_too_small_is_lost():
    chain = plan((1, 3, 0), (3, 5, 1), (5, 7, 2))
    # | 30 | 20 | -> the first is gone, but 35 do not fit there: | .. | 20 | 35 |
    assert chain.size([30.0, 20.0, 35.0]) == 85.0


def test_the_tightest_gap_is_taken():
    steps = plan((1, 3, 0), (1, 9, 1), (1, 3, 2), (1, 9, 3), (5, 9, 4), (5, 9, 5))
    # | 50 | 10 | 20 | 11 |: 19 goes where 20 were, so that 45 still fit where 50 were
    assert steps.size([50.0, 10.0, 20.0, 11.0, 19.0, 45.0]) == 91.0


def test_a_memory_waits_for_the_next_tensor_of_its_shape():
    two = plan((1, 3, 0), (3, 5, 1), (5, 7, 2), (7, 9, 3))
    # the fourth takes the first's, which nobody else could have meanwhile
    assert two.size([40.0, 10.0, 30.0, 40.0]) == 80.0
    ranks = (Interval(1, 3, 0, 4), Interval(3, 5, 1, 4), Interval(5, 7, 2, 4), Interval(7, 9, 3, 2))
    assert Packing((), ranks).size([40.0, 10.0, 30.0, 40.0]) == 80.0 - 10.0


def test_inputs_and_outputs_are_not_packed():
    kept = Packing((0, 2), (Interval(1, 3, 1, 4),))
    assert kept.size([5.0, 7.0, 3.0]) == 15.0


class Net(nn.Module):
    """Convolution, norm, activation, a sum with what came before, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return torch.relu(self.two(x) + x).permute(0, 2, 3, 1)


@pytest.fixture
def blocks_of_eight(monkeypatch):
    monkeypatch.setattr(workspace, "block", lambda: 8)
    monkeypatch.setattr(packing, "block", lambda: 8)


@pytest.mark.usefixtures("blocks_of_eight")
def test_norms_fold_and_activations_and_sums_are_written_over_their_input():
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(Net().eval(), x)
    image, feature = 4 * 3 * 64, 4 * 16 * 64
    costs = CostModel(graph, runtimes=[("onnxruntime", 1)])
    norm = 4 * 4 * 16  # weight, bias, mean and variance
    # what the second convolution reads and writes; later a copy out of blocks; and the output
    assert costs.dense.peak_memory_bytes == costs.dense.weight_bytes - norm + image + 3 * feature
    assert {"norm.weight", "norm.running_mean"} <= liveness(graph, "fused").folded


def test_other_runtimes_hold_what_the_code_holds_without_a_workspace():
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(Net().eval(), x)
    dense = CostModel(graph, runtimes=[("cuda", 1)]).dense
    image, feature = 4 * 3 * 64, 4 * 16 * 64
    # at the second activation: `x` (held by its name), the sum, and the result
    assert dense.peak_memory_bytes == dense.weight_bytes + image + 3 * feature
