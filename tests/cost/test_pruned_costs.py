"""The predicted counts of a candidate equal what is counted on the model after surgery."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from models.zoo import ZOO
from torch import nn
from torch.nn import functional as F

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device
from autoprune.cost.analytic import count, count_cost
from autoprune.cost.latency import Latency
from autoprune.cost.model import CostModel
from autoprune.device import sampling
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Until, pruned, random_architectures
from autoprune.graph import trace


class Residual(nn.Module):
    """Stem, a block with a padded shortcut, in-place activations, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.two(F.relu(self.one(x)))
        y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Branches(nn.Module):
    """Concatenation, depthwise convolution, squeeze and excitation, upsampling, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.out = nn.ConvTranspose2d(16, 3, 2, stride=2)

    def forward(self, x):
        y = self.depthwise(torch.cat([self.left(x), self.right(x)], dim=1))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = F.silu(y * gate)
        return self.out(y), F.interpolate(self.left(x), scale_factor=2.0)


MODELS = {
    "residual": (Residual, torch.zeros(2, 3, 16, 16)),
    "branches": (Branches, torch.zeros(1, 3, 8, 8)),
    "mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 7)),
        torch.zeros(3, 3, 4, 4),
    ),
    "audio": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8),
            nn.Conv1d(8, 12, 1), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12 * 21, 3),
        ),
        torch.zeros(1, 2, 48),
    ),
}  # fmt: skip


def without_peak(cost: Cost) -> Cost:
    """What is exact without blocks too: a sum that is left out may free memory earlier."""
    return dataclasses.replace(cost, peak_memory_bytes=None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predicted_counts_equal_counted_ones(name, dtype):
    build, x = MODELS[name]
    model, x = build().to(dtype), x.to(dtype)
    graph = trace(model, x)
    costs = CostModel(graph)
    assert costs.dense == count_cost(model, x)
    assert graph.groups
    for architecture in random_architectures(graph, 3, seed=0):
        found, small = costs.cost(architecture), pruned(model, graph, architecture)
        assert without_peak(found) == without_peak(count_cost(small, x))
        if not architecture.dropped:
            assert found == count_cost(small, x)


QUICK = ("resnet20_padded", "mobilenet_v3", "shufflenet_v2", "convnext", "unet", "googlenet")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
)
def test_known_families_are_costed_exactly(name):
    build, inputs = ZOO[name]
    model, x = build(), inputs(2)
    graph = trace(model, x)
    costs = CostModel(graph)
    dense = count(model, x)
    assert dense.uncounted == {}
    assert costs.dense == dense.cost
    (widths,) = random_architectures(graph, 1, seed=1)
    assert costs.cost(widths) == count_cost(pruned(model, graph, widths), x) != dense.cost
    half = [block.name for block in graph.blocks][::2]
    shallow = Architecture(widths.widths, half)
    found, counted = costs.cost(shallow), count_cost(pruned(model, graph, shallow), x)
    assert without_peak(found) == without_peak(counted)
    assert counted.get("peak_memory_bytes") <= found.get("peak_memory_bytes")


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_fit_measures_prunings_of_the_model_and_leaves_it_alone(runtime):
    model, x = Residual().train(), torch.zeros(2, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model, x)
    fitted = LatencyPredictor.fit(model, graph, x, runtime=runtime, until=Until(10))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert len(fitted.samples) == 10
    assert fitted.device.runtime == runtime
    assert fitted.device.batch == 2
    assert fitted.dense_ms > 0.0
    assert fitted.p95_factor >= 1.0
    assert len({it.ratio for it in fitted.samples}) > 1
    predicted = CostModel(graph, latency=fitted).cost(Architecture(dict.fromkeys(graph.sizes(), 1)))
    assert predicted.source == "predicted"
    assert predicted.latency_ms > 0.0


def test_each_pruning_keeps_its_own_measurement(monkeypatch, caplog):
    """A clock that reads parameters instead of time: the fit must find them again."""
    model, x = Residual(), torch.zeros(2, 3, 16, 16)
    graph = trace(model, x)
    asked = []

    def read(models, example_inputs, runtime, *, threads, warmup_s, repeats):
        asked.append((len(models), repeats))
        times = [float(sum(p.numel() for p in m.parameters())) / 100 for m in models]
        device = Device("a clock", runtime, batch=2, threads=threads)
        return [Latency(t, 2 * t, (t, t), device, t / times[0]) for t in times]

    monkeypatch.setattr(sampling, "measure_together", read)
    monkeypatch.setattr(sampling, "measure_latency", lambda m, *a, **k: read([m], *a, **k)[0])
    fitted = LatencyPredictor.fit(model, graph, x, until=Until(13))
    costs = CostModel(graph)
    for sample in fitted.samples:
        (params,) = costs.costs(np.array([list(sample.counts.values())]))["params"]
        assert sample.median_ms == params / 100
        assert sample.ratio == pytest.approx(params / costs.dense.params)
    assert fitted.dense_ms == costs.dense.params / 100
    assert fitted.p95_factor == 2.0
    # the dense model (2937 parameters) alone, then beside all; 250 / 29.37 is 8
    assert asked == [(1, 5), (14, 8)]
    assert "off by" not in caplog.text
    monkeypatch.setattr("autoprune.device.predictor._DOUBTFUL", -1.0)
    LatencyPredictor.fit(model, graph, x, until=Until(10))
    assert "off by" in caplog.text


def test_measuring_ends_once_the_fit_is_good_and_goes_where_it_is_unsure(monkeypatch):
    """A clock that reads parameters: a law that the features hold exactly."""
    model, x = Residual(), torch.zeros(2, 3, 16, 16)
    graph = trace(model, x)

    def read(models, example_inputs, runtime, **_):
        times = [float(sum(p.numel() for p in m.parameters())) / 100 for m in models]
        device = Device("a clock", runtime, batch=2)
        return [Latency(t, 2 * t, (t, t), device, t / times[0]) for t in times]

    monkeypatch.setattr(sampling, "measure_together", read)
    monkeypatch.setattr(sampling, "measure_latency", lambda m, *a, **k: read([m], *a, **k)[0])
    easy = LatencyPredictor.fit(model, graph, x, until=Until(100, error=0.5))
    assert len(easy.samples) == 24
    hard = LatencyPredictor.fit(model, graph, x, until=Until(40, error=0.0))
    assert len(hard.samples) == 40
    assert [s.counts for s in hard.samples[:24]] == [s.counts for s in easy.samples]
    assert len({tuple(s.counts.items()) for s in hard.samples[24:]}) > 10
    late = LatencyPredictor.fit(model, graph, x, until=Until(40, seconds=1e-9, error=0.0))
    assert len(late.samples) == 24
