"""The dense model's costs, layer by layer, against hand arithmetic."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.graph import trace
from autoprune.profile import layers_of, profile
from autoprune.tasks.wrap import wrap

X = torch.zeros(1, 3, 8, 8)


def small_net() -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), *head)


def test_layers_are_counted_by_hand() -> None:
    layers = {layer.name: layer for layer in layers_of(trace(small_net().eval(), X))}
    assert list(layers) == ["0", "1", "4"]
    assert (layers["0"].params, layers["0"].macs) == (3 * 6 * 9, 3 * 6 * 9 * 64)
    assert (layers["1"].params, layers["1"].macs) == (12, 0)
    assert (layers["4"].params, layers["4"].macs) == (6 * 2 + 2, 12)
    assert (layers["0"].group, layers["0"].units) == ("0", 6)
    assert (layers["4"].group, layers["4"].units) == ("", 0)


def test_profile_adds_up() -> None:
    batches = [(X, torch.zeros(1, dtype=torch.long))]
    found = profile(wrap(small_net(), batches, batches), runtimes=("torch",))
    assert found.cost.params == sum(layer.params for layer in found.layers)
    assert found.cost.macs == sum(layer.macs for layer in found.layers)
    assert [latency.device.runtime for latency in found.latencies] == ["torch"]
    assert any(frozen.name == "4" for frozen in found.frozen)


def test_the_models_own_parameters_are_named_and_heads_have_their_channels() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(5, 8)
            self.position = nn.Parameter(torch.zeros(1, 3, 8))
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.tokens(x) + self.position).mean(1))

    graph = trace(Encoder().eval(), torch.zeros(1, 3, dtype=torch.long))
    layers = {layer.name: layer for layer in layers_of(graph)}
    assert "" not in layers
    assert layers["position"].params == 24
    # two heads, each of 4 channels of the embedding
    assert (layers["tokens"].units, layers["tokens"].channels) == (2, 4)
    assert (layers["layer.linear1"].units, layers["layer.linear1"].channels) == (12, 1)


def test_times_of_the_layers_and_of_the_rest_are_those_of_the_profiler(monkeypatch) -> None:
    times = {"0": 0.5, "2": 0.25, "4": 0.125, "": 0.0625}
    monkeypatch.setattr("autoprune.profile.layer_times", lambda *_: times)
    batches = [(X, torch.zeros(1, dtype=torch.long))]
    found = profile(wrap(small_net(), batches, batches))
    assert {layer.name: layer.ms for layer in found.layers} == {"0": 0.5, "1": None, "4": 0.125}
    assert found.other_ms == 0.25 + 0.0625


def test_a_model_that_the_profiler_cannot_tell_apart_has_no_times(monkeypatch) -> None:
    monkeypatch.setattr("autoprune.profile.layer_times", lambda *_: {})
    batches = [(X, torch.zeros(1, dtype=torch.long))]
    found = profile(wrap(small_net(), batches, batches))
    assert found.other_ms is None
