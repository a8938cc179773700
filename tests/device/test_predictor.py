"""The latency fit: it finds additive laws, tells its error on what it has not seen, and travels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from chains import chain
from torch import nn

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.device.features import TOTALS, LatencyFeatures
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sample, random_architectures
from autoprune.errors import DeviceError
from autoprune.graph import PruningGraph, trace

DEVICE = Device("a machine", "torch", batch=2)


def samples_of(graph: PruningGraph, law, number: int = 40, seed: int = 0) -> list[Sample]:
    kept = [graph.counts(each) for each in random_architectures(graph, number, seed)]
    whole = law(graph.sizes())
    return [Sample(units, 3.0 * law(units) / whole, law(units) / whole) for units in kept]


def by_layers(kept) -> float:
    """Work that costs three times as much in the first layer, traffic, and a constant."""
    a, b, c = kept["layer0"], kept["layer1"], kept["layer2"]
    return 3.0 * 32 * a + a * b + b * c + 10 * c + 4 * (a + b + c) + 2000


def test_finds_an_additive_law_from_few_samples():
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    whole = by_layers(graph.sizes())
    unseen = samples_of(graph, by_layers, 30, seed=1)
    errors = [abs(fitted.predict(it.counts) / it.median_ms - 1.0) for it in unseen]
    assert max(errors) < 0.02
    assert fitted.error < 0.02
    assert fitted.predict({}) == pytest.approx(3.0, rel=1e-9)
    assert fitted.predict({"layer0": 1}) == pytest.approx(
        3.0 * by_layers({"layer0": 1, "layer1": 48, "layer2": 40}) / whole, rel=0.03
    )


def test_error_tells_of_noise_that_cannot_be_learned():
    graph = chain((64, 48, 40))
    rng = np.random.default_rng(0)
    noisy = [
        Sample(it.counts, it.median_ms, it.ratio * factor)
        for it, factor in zip(
            samples_of(graph, by_layers), rng.choice([0.8, 1.25], 40), strict=True
        )
    ]
    fitted = LatencyPredictor.from_samples(graph, noisy, device=DEVICE, dense_ms=3.0)
    assert 0.15 < fitted.error < 0.4
    assert len(fitted.held_out) == 40


def test_removing_more_never_costs_more():
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    assert (fitted.coefficients >= 0.0).all()
    falling = [fitted.predict({"layer0": a, "layer1": a}) for a in range(48, 0, -1)]
    assert falling == sorted(falling, reverse=True)


def test_many_are_predicted_like_one():
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    kept = np.array([[1, 2, 3], [64, 48, 40]])
    expected = [fitted.predict({"layer0": 1, "layer1": 2, "layer2": 3}), fitted.predict({})]
    np.testing.assert_allclose(fitted.predict_many(kept), expected)


def test_json_and_back():
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0, p95_factor=1.2
    )
    again = LatencyPredictor.from_dict(json.loads(json.dumps(fitted.to_dict())), graph)
    assert again.predict({"layer1": 7}) == fitted.predict({"layer1": 7})
    assert again.to_dict() == fitted.to_dict()
    assert (again.device, again.error, again.p95_factor) == (DEVICE, fitted.error, 1.2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((64, 48, 36), "group 'layer2' has 36 units here and 40 there"),
        ((64, 48), "group 'layer2' is missing here"),
    ],
)
def test_profile_of_another_model_is_refused_with_what_differs(other, message):
    graph = chain((64, 48, 40))
    data = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    ).to_dict()
    with pytest.raises(DeviceError, match=message):
        LatencyPredictor.from_dict(data, chain(other))
    with pytest.raises(DeviceError, match="must have format 7, got 6"):
        LatencyPredictor.from_dict({**data, "format": 6}, graph)


def test_kernels_that_dislike_odd_widths_are_learned():
    """Widths off 4 take half as long again: no smooth law of the work explains that."""
    graph = chain((64, 48, 40))

    def law(kept) -> float:
        a, b, c = kept["layer0"], kept["layer1"], kept["layer2"]
        slow = 1.5 if a % 4 else 1.0
        return slow * a * b + b * c + 500

    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, law, 60), device=DEVICE, dense_ms=3.0
    )
    whole = fitted.predict({})
    assert fitted.predict({"layer0": 63}) > 1.1 * whole
    assert fitted.predict({"layer0": 60}) < whole
    assert fitted.error < 0.02


class _Stack(nn.Module):
    """Six residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 128), nn.Linear(128, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 128)) for _ in range(6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_the_overhead_of_each_call_goes_with_a_dropped_block() -> None:
    """Latency that is the number of operations alone, as for small layers in eager mode."""
    graph = trace(_Stack().eval(), torch.zeros(1, 8))

    def law(counts) -> float:
        return 3.0 + 4.0 * sum(counts[block.column] for block in graph.blocks)

    drawn = random_architectures(graph, 60, seed=0)
    dense = law(graph.columns())
    samples = [
        Sample(counts, law(counts) / dense, law(counts) / dense)
        for counts in (graph.counts(each) for each in drawn)
    ]
    fitted = LatencyPredictor.from_samples(graph, samples, device=DEVICE, dense_ms=1.0)
    assert fitted.error < 0.01
    gone = graph.counts(Architecture(dropped=[block.name for block in graph.blocks[:3]]))
    assert fitted.predict(gone) == pytest.approx(law(gone) / dense, rel=0.02)


def _kinds(graph: PruningGraph) -> dict[str, np.ndarray]:
    """Counts of narrow models, and of models at full width with blocks dropped."""
    names = [block.name for block in graph.blocks]
    narrow = [Architecture({g.name: g.size // k for g in graph.groups}) for k in (2, 4, 8)]
    short = [Architecture(dropped=names[:k]) for k in (2, 4, 6)]
    return {
        kind: np.array([list(graph.counts(each).values()) for each in found])
        for kind, found in (("narrow", narrow), ("short", short))
    }


def test_what_a_sum_cannot_tell_is_learned_from_totals() -> None:
    """A latency that is no sum: the work to a power, times the calls to another."""
    graph = trace(_Stack().eval(), torch.zeros(1, 8))
    features = LatencyFeatures(graph)

    def law(counts: np.ndarray) -> np.ndarray:
        totals = dict(zip(TOTALS, features.with_totals(counts)[1].T, strict=True))
        return totals["macs"] ** 0.4 * totals["calls"] ** 0.6

    counts = [graph.counts(each) for each in random_architectures(graph, 60, seed=0)]
    ratios = law(np.array([list(each.values()) for each in counts]))
    samples = [Sample(c, r, r) for c, r in zip(counts, ratios.tolist(), strict=True)]
    fitted = LatencyPredictor.from_samples(graph, samples, device=DEVICE, dense_ms=1.0)
    alone = dataclasses.replace(fitted, powers=np.eye(1, len(fitted.powers))[0])
    for rows in _kinds(graph).values():
        off = np.abs(fitted.predict_many(rows) / law(rows) - 1.0).mean()
        assert off < 0.6 * np.abs(alone.predict_many(rows) / law(rows) - 1.0).mean()
    assert fitted.error < 0.05
    assert (fitted.powers >= 0.0).all()


def test_a_correction_meets_later_measurements_and_leaves_the_dense_model() -> None:
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    later = [  # a quieter machine: everything below the dense model is faster than was learned
        Sample(it.counts, it.median_ms, it.ratio**1.3)
        for it in samples_of(graph, by_layers, 6, seed=5)
        if it.ratio < 0.9
    ]
    fixed = fitted.corrected(later)
    assert fixed.powers == pytest.approx(1.3 * fitted.powers, rel=0.05)
    for sample in later:
        assert fixed.predict(sample.counts) / fixed.dense_ms == pytest.approx(
            sample.ratio, rel=0.05
        )
    assert fixed.predict(graph.sizes()) == pytest.approx(fitted.predict(graph.sizes()), rel=0.02)
    assert fixed.upper_factor < 1.05
    again = LatencyPredictor.from_dict(fixed.to_dict(), graph)
    assert again.predict(later[0].counts) == pytest.approx(fixed.predict(later[0].counts))


def test_checks_near_the_dense_model_hardly_change_the_predictions_of_small_ones() -> None:
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    whole = graph.counts(Architecture({name: size - 4 for name, size in graph.sizes().items()}))
    ratio = fitted.predict(whole) / fitted.dense_ms
    assert 0.8 < ratio < 0.95
    late = Sample(whole, 3.0, ratio**0.5)  # measured several percent too slow
    fixed = fitted.corrected([late])
    assert 0.85 < fixed.powers[0] / fitted.powers[0] < 1.0
    small = graph.counts(Architecture({name: size // 4 for name, size in graph.sizes().items()}))
    assert fixed.predict(small) == pytest.approx(fitted.predict(small), rel=0.25)


def test_a_few_measurements_move_a_predictor_to_another_precision() -> None:
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    there = [
        Sample(it.counts, it.median_ms, 0.4 * it.ratio**0.8)
        for it in samples_of(graph, by_layers, 12, seed=5)
    ]
    moved = fitted.moved(there[:8], dataclasses.replace(DEVICE, dtype="int8"))
    assert moved.device.dtype == "int8"
    assert moved.error < 0.03
    for sample in there[8:]:
        assert moved.predict(sample.counts) / 3.0 == pytest.approx(sample.ratio, rel=0.05)
    again = LatencyPredictor.from_dict(moved.to_dict(), graph)
    assert again.predict(there[9].counts) == pytest.approx(moved.predict(there[9].counts))


def test_the_stated_error_of_a_moved_predictor_is_of_what_each_check_was_not_fitted_to() -> None:
    graph = chain((64, 48, 40))
    fitted = LatencyPredictor.from_samples(
        graph, samples_of(graph, by_layers), device=DEVICE, dense_ms=3.0
    )
    rng = np.random.default_rng(0)
    noisy = [
        Sample(it.counts, it.median_ms, it.ratio * float(np.exp(rng.normal(0.0, 0.2))))
        for it in samples_of(graph, by_layers, 10, seed=5)
    ]
    moved = fitted.moved(noisy, DEVICE)
    assert 0.05 < moved.error < 0.4
    assert moved.upper_factor > 1.1
    with pytest.raises(ValueError, match="at least 4 checks, got 3"):
        fitted.moved(noisy[:3], DEVICE)
