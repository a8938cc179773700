"""Layers: widths, arithmetic, and their parts of the predicted latency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.cost.model import CostModel
from autoprune.device.layers import halves, largest_part, network
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sample
from autoprune.graph import PruningGraph, trace


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.conv1(x).relu())
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    return trace(Residual().eval(), torch.zeros(1, 3, 6, 6))


@pytest.fixture(scope="module")
def predictor(graph: PruningGraph) -> LatencyPredictor:
    """Fitted to latencies that follow the arithmetic."""
    rng, model = np.random.default_rng(0), CostModel(graph)
    whole = model.dense.macs or 1
    samples = []
    for _ in range(24):
        widths = {name: int(rng.integers(1, size + 1)) for name, size in graph.sizes().items()}
        macs = model.cost(Architecture(widths)).macs or 0
        ratio = 0.1 + 0.9 * macs / whole
        samples.append(Sample(graph.counts(Architecture(widths)), 2.0 * ratio, ratio))
    return LatencyPredictor.from_samples(graph, samples, device=Device("bench"), dense_ms=2.0)


def test_widths_and_arithmetic_are_those_of_the_model(graph: PruningGraph) -> None:
    (block,) = graph.blocks
    found = network(graph, None, {"7": Architecture({"stem": 5}, [block.name])})
    assert [layer.name for layer in found.layers] == ["stem", "conv1", "conv2", "head"]
    assert [layer.group for layer in found.layers] == ["stem", "conv1", "stem", ""]
    assert [layer.block for layer in found.layers] == ["", block.name, block.name, ""]
    assert found.models["dense"].widths == (8, 12, 8, 4)
    assert found.models["dense"].macs == (36 * 27 * 8, 36 * 72 * 12, 36 * 108 * 8, 32)
    assert found.models["7"].widths == (5, 0, 0, 4)
    assert found.models["7"].macs == (36 * 27 * 5, 0, 0, 20)
    assert (found.latency, found.models["7"].ms) == ("", ())


def test_the_parts_of_the_layers_are_the_prediction_less_the_rest(
    graph: PruningGraph, predictor: LatencyPredictor
) -> None:
    counts = graph.counts(Architecture({"stem": 4, "conv1": 6}))
    parts = predictor.by_layer(counts)
    assert list(parts) == ["stem", "conv1", "conv2", "head"]
    assert all(value >= 0.0 for value in parts.values())
    features = predictor.features
    row, names = features.of(features.row(counts))[0], np.array(features.names)
    rest = np.isin(names, ["all other: bytes", "all other: calls", "all constant"])
    share = float(row[rest] @ predictor.coefficients[rest]) / float(row @ predictor.coefficients)
    assert sum(parts.values()) == pytest.approx(predictor.predict(counts) * (1.0 - share))


def test_a_dropped_block_takes_no_time(graph: PruningGraph, predictor: LatencyPredictor) -> None:
    (block,) = graph.blocks
    found = network(graph, predictor, {"1": Architecture(dropped=[block.name])}, "latency_ms")
    before, after = found.models["dense"].ms, found.models["1"].ms
    assert after[1:3] == (0.0, 0.0)
    assert min(before[1:3]) > 0.0


def test_half_of_a_group_saves_in_the_layers_that_read_it_too(
    graph: PruningGraph, predictor: LatencyPredictor
) -> None:
    # halving the stem's 8 halves the stem, conv1, conv2 and the head, all of the arithmetic;
    # halving conv1's 12 halves conv1 and conv2: 36 * 72 * 12 and 36 * 108 * 8 of 70 016
    assert halves(graph, None) == pytest.approx({"stem": 0.5, "conv1": 31_104 / 70_016})
    found = halves(graph, predictor)
    assert found["stem"] == pytest.approx(0.45, abs=0.05)  # the latency's constant tenth stays


def test_the_layer_that_takes_most_is_named(
    graph: PruningGraph, predictor: LatencyPredictor
) -> None:
    # 36 * 27 * 8, 36 * 72 * 12 and 36 * 108 * 8 of 70 016: conv1 has 44 %, conv2 too
    words = largest_part(graph, {}, Architecture(), "macs")
    assert words == "; conv1 alone is 44 % of it"
    assert largest_part(graph, {}, Architecture(), "params") == ""
    assert "alone is" in largest_part(
        graph, {"latency_ms": predictor}, Architecture(), "latency_ms"
    )
