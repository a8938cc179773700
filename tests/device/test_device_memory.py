"""Peak memory fitted to measured prunings: exact where the count is, near elsewhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from models.zoo import ZOO
from torch import nn

from autoprune.architecture import INT8
from autoprune.cost import targets
from autoprune.cost.activations import COUNTED
from autoprune.cost.memory import measure_peak_memory
from autoprune.cost.model import CostModel
from autoprune.cost.precisions import int8_cost
from autoprune.device import memory
from autoprune.device.memory import fit_peak_memory
from autoprune.device.sampling import pruned, random_architectures
from autoprune.graph import trace
from autoprune.quantization import int8_for_timing

WIDTHS = (16, 40, 40, 8)


def net() -> nn.Module:
    layers = [(nn.Conv2d(i, o, 3, padding=1), nn.ReLU()) for i, o in pairwise(WIDTHS)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


X = torch.zeros(1, 16, 12, 12)


class Telling(targets.Target):
    """Takes what `law` says of weights, input, and both of a convolution's tensors."""

    def __init__(self, law) -> None:
        self.law = law

    def reach(self, threads):
        raise NotImplementedError

    def time(self, models, example_inputs, protocol):
        raise NotImplementedError

    def peak_memory(self, model, example_inputs, threads):
        return self.law(model)


def fitted(monkeypatch, law, seed=0):
    monkeypatch.setattr(memory, "find_target", lambda runtime: Telling(law))
    model = net()
    return fit_peak_memory(model, trace(model, X), X, runtime="told", seed=seed)


def held(model: nn.Module) -> int:
    return 4 * sum(p.numel() for p in model.parameters())


def widest(model: nn.Module, block: int = 1) -> int:
    """The two neighbors of most channels, each in whole blocks; the image beside them."""
    sizes = [layer.out_channels for layer in model if isinstance(layer, nn.Conv2d)]
    blocks = [-(-size // block) * block for size in sizes]
    most = max(max(2 * one for one in blocks), max(a + b for a, b in pairwise(blocks)))
    return 4 * 144 * most


def test_a_runtime_that_takes_what_is_counted_is_predicted_exactly(monkeypatch):
    found = fitted(monkeypatch, lambda model: held(model) + 4 * X.numel() + widest(model))
    assert (found.plain, found.padded) == pytest.approx((1.0, 0.0), abs=2e-3)
    assert found.upper_factor == pytest.approx(1.0, abs=2e-3)


def test_a_runtime_that_works_in_blocks_of_channels_is_learned(monkeypatch):
    found = fitted(
        monkeypatch, lambda model: held(model) + 4 * X.numel() + round(1.5 * widest(model, 8))
    )
    assert found.padded == pytest.approx(1.5, abs=0.1)
    assert found.plain == pytest.approx(0.0, abs=0.1)


def test_single_models_that_take_far_more_do_not_bend_the_fit(monkeypatch):
    seen = []

    def law(model):
        seen.append(model)
        usual = held(model) + 4 * X.numel() + widest(model)
        return usual * 2 if len(seen) in (4, 9) else usual

    found = fitted(monkeypatch, law)
    assert (found.plain, found.padded) == pytest.approx((1.0, 0.0), abs=0.03)
    assert found.upper_factor < 1.05
    assert len(seen) == 13


def test_the_bound_is_above_four_fifths_of_what_was_measured(monkeypatch):
    factors = iter([1.0, *([0.9, 1.1] * 6)])
    found = fitted(
        monkeypatch,
        lambda model: round(next(factors) * (held(model) + 4 * X.numel() + widest(model))),
    )
    assert 1.05 < found.upper_factor < 1.2


def test_a_buffer_of_convolutions_that_do_not_fit_blocks_of_channels_is_learned(monkeypatch):
    def law(model):
        channels = [layer.in_channels for layer in model if isinstance(layer, nn.Conv2d)]
        buffer = 65536 * any(n >= 8 and n % 4 for n in channels)
        return held(model) + 4 * X.numel() + widest(model, 8) + buffer

    found = fitted(monkeypatch, law, seed=3)
    assert (found.padded, found.buffer) == pytest.approx((1.0, 1.0), abs=0.05)
    assert found.upper_factor < 1.02


def test_int8_models_are_measured_in_place_of_prunings_and_their_windows_are_learned(monkeypatch):
    made = []

    def int8(small):
        made.append(small)
        return small

    def is_fast(layer):
        return layer.out_channels % 16 == 0 and layer.in_channels in range(8, 100, 4)

    def law(model):
        convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
        a, b, c = (layer.out_channels for layer in convolutions)
        live = max(2 * a, a + b, 2 * b, b + c, 5 * c)  # the output in float32
        needed = [72 if is_fast(layer) else 9 * layer.in_channels for layer in convolutions]
        windows = sum(n for place, n in enumerate(needed) if n > max(needed[:place], default=0))
        return int8_cost(model, X).weight_bytes + 4 * X.numel() + 144 * (2 * live + 3 * windows)

    monkeypatch.setattr(memory, "find_target", lambda runtime: Telling(law))
    model = net()
    found = fit_peak_memory(model, trace(model, X), X, runtime="told", int8=int8)
    assert len(made) == 13
    assert (found.plain, found.buffer) == pytest.approx((2.0, 3.0), abs=0.05)
    assert found.sums == pytest.approx(0.0, abs=0.05)
    assert found.upper_factor < 1.02


def test_a_runtime_that_does_not_tell_is_counted(monkeypatch):
    assert fitted(monkeypatch, lambda model: None) == COUNTED


@pytest.mark.parametrize(
    ("name", "runtime", "mean"),
    [
        ("mobilenet_v2", "torch", 0.1),
        ("mobilenet_v2", "onnxruntime", 0.2),
        ("resnet20_padded", "onnxruntime", 0.25),
    ],
)
def test_unseen_prunings_are_near(name, runtime, mean):
    build, inputs = ZOO[name]
    model, x = build().eval(), inputs(1)
    graph = trace(model, x)
    found = fit_peak_memory(model, graph, x, runtime=runtime)
    costs = CostModel(graph, memory=[found])
    off = []
    for each in random_architectures(graph, 12, seed=7):
        taken = measure_peak_memory(pruned(model, graph, each), x, runtime)
        off.append(costs.cost(each).get("peak_memory_bytes") / taken - 1.0)
    assert np.mean(np.abs(off)) < mean


def test_unseen_prunings_in_int8_are_near():
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)).eval()
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    graph = trace(model, x)

    def int8(small):
        return int8_for_timing(small, x)

    found = fit_peak_memory(model, graph, x, runtime="onnxruntime", int8=int8)
    costs = CostModel(graph, memory=[found], precision=INT8)
    off = []
    for each in random_architectures(graph, 12, seed=7):
        taken = measure_peak_memory(int8(pruned(model, graph, each)), x, "onnxruntime")
        off.append(costs.cost(each).get("peak_memory_bytes") / taken - 1.0)
    assert np.mean(np.abs(off)) < 0.3
