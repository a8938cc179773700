"""Which prunings are measured, and in which batches."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from chains import chain
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.cost.latency import Latency
from autoprune.device import sampling
from autoprune.device.features import LatencyFeatures
from autoprune.device.sampling import (
    Sample,
    Sampler,
    Until,
    pruned,
    random_architectures,
    rows_of,
)
from autoprune.errors import DeviceLostError
from autoprune.graph import trace


def test_random_prunings_are_seeded_and_range_widely():
    graph = chain((64, 48, 40))
    found = random_architectures(graph, 40, seed=3)
    assert found == random_architectures(graph, 40, seed=3)
    assert found != random_architectures(graph, 40, seed=4)
    shares = [architecture.widths["layer0"] / 64 for architecture in found]
    assert min(shares) < 0.15
    assert max(shares) > 0.9
    assert not any(architecture.dropped for architecture in found)  # it has no blocks


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 2)
        self.block = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(x + self.block(x))


X = torch.zeros(2, 6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A clock that reads parameters; notes how many models it has timed, and how often."""
    asked: list[tuple[int, int]] = []

    def read(models, example_inputs, runtime, *, threads, warmup_s, repeats):
        asked.append((len(models), repeats))
        times = [sum(p.numel() for p in model.parameters()) / 100 for model in models]
        device = Device("a clock", runtime, batch=2, threads=threads)
        return [Latency(t, 2 * t, (t, t), device, t / times[0]) for t in times]

    monkeypatch.setattr(sampling, "measure_together", read)
    monkeypatch.setattr(sampling, "measure_latency", lambda m, *a, **k: read([m], *a, **k)[0])
    return asked


def sampler(**options: Any) -> Sampler:
    model = Residual().eval()
    return Sampler(model, trace(model, X), X, runtime="torch", threads=1, seed=0, **options)


WEIGHTS = 4 * sum(p.numel() for p in Residual().parameters())


@pytest.mark.parametrize(
    ("room", "batches"), [(7.5, [7, 7, 7, 3, 6]), (1.0, [6, 6, 6, 6, 6]), (99.0, [24, 6])]
)
def test_large_models_take_turns_with_few(clock, room: float, batches: list[int]):
    found = sampler(room=room * WEIGHTS).measure(Until(30, error=0.0))
    assert len(found.samples) == 30
    assert [models - 1 for models, _ in clock[1:]] == batches


def test_given_prunings_are_measured_in_even_batches(clock):
    one = sampler()
    given = random_architectures(trace(Residual().eval(), X), 26, 0)
    assert len(one.measure_these(given).samples) == 26
    assert [models - 1 for models, _ in clock[1:]] == [13, 13]
    clock.clear()
    assert one.measure_these([]).samples == []
    assert len(clock) == 1


def test_repeats_are_by_the_dense_models_time(clock):
    sampler().measure_these([Architecture()])
    dense_ms = WEIGHTS / 4 / 100
    assert clock == [(1, 5), (2, int(250.0 / dense_ms))]


def test_what_is_converted_is_measured_and_the_dense_model_stays(clock):
    found = sampler(convert=lambda model: nn.Linear(10, 9)).measure_these([Architecture()] * 2)
    assert [it.median_ms for it in found.pruned] == [0.99, 0.99]
    assert found.dense_ms == WEIGHTS / 4 / 100
    assert found.p95_factor == 2.0
    assert (found.device.name, found.pruned_device.name) == ("a clock", "a clock")


def test_a_device_lost_with_fewer_than_twenty_measured_is_an_error(clock, monkeypatch):
    read = sampling.measure_together

    def losing(models, *args, **options):
        if len(clock) > 3:
            raise DeviceLostError("ssh://cam was lost")
        return read(models, *args, **options)

    monkeypatch.setattr(sampling, "measure_together", losing)
    with pytest.raises(DeviceLostError) as caught:
        sampler(room=1.0).measure(Until(30))
    assert str(caught.value) == (
        "ssh://cam was lost · 18 of 30 prunings were measured, a fit needs 20"
    )


def test_a_sample_travels_as_json():
    sample = Sample({"a": 3, "block:b": 0}, 1.5, 0.5)
    data = json.loads(json.dumps(sample.to_dict()))
    assert data == {"kept": {"a": 3, "block:b": 0}, "median_ms": 1.5, "ratio": 0.5}
    assert Sample.from_dict(data) == sample


def test_rows_begin_with_the_dense_model():
    features = LatencyFeatures(chain((16, 8)))
    x, y = rows_of(features, [Sample({"layer0": 4, "layer1": 2}, 1.0, 0.3)])
    assert y.tolist() == [1.0, 0.3]
    assert x.tolist() == features.of(np.array([[16, 8], [4, 2]])).tolist()


def test_random_prunings_are_of_widths_of_blocks_and_of_both_in_turn():
    graph = trace(Residual().eval(), X)
    found = random_architectures(graph, 42, seed=0)
    widths, both, blocks = found[::3], found[1::3], found[2::3]
    assert not any(each.dropped for each in widths)
    for kind in (both, blocks):
        assert {each.dropped for each in kind} == {(), ("block",)}
    assert all(each.widths == graph.sizes() for each in blocks)
    assert sum(each.widths == graph.sizes() for each in both) < 3
    for each in found:
        assert set(each.widths) == set(graph.sizes())
        assert all(1 <= each.widths[name] <= size for name, size in graph.sizes().items())


def test_a_pruning_keeps_the_first_units():
    model = Residual().eval()
    small = pruned(model, trace(model, X), Architecture({"stem": 5}))
    assert torch.equal(small.stem.weight, model.stem.weight[:5])
    assert torch.equal(small.head.weight, model.head.weight[:, :5])
