"""The correction of an additive latency fit: it finds what widths share, and travels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_predictor import DEVICE, chain, samples_of

from autoprune.cost import predictor
from autoprune.cost.predictor import LatencyPredictor
from autoprune.cost.residual import Residual

SIZES = np.array([64, 48, 40])


def widths(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, SIZES + 1, (number, 3))


def bow(kept: np.ndarray) -> np.ndarray:
    """Smooth, and of two groups together: no sum over groups can hold it."""
    a, b = kept[:, 0] / 64, kept[:, 1] / 48
    return 0.2 * np.sin(3 * a) * np.cos(3 * b) + 0.1 * (kept[:, 2] % 4 != 0)


def test_it_learns_what_depends_smoothly_on_several_widths() -> None:
    known, unseen = widths(80, 0), widths(40, 1)
    found = Residual.fit(known, SIZES, bow(known)).of(unseen)
    assert np.abs(found - bow(unseen)).mean() < 0.4 * np.abs(bow(unseen) - bow(known).mean()).mean()


def test_each_row_is_left_out_of_what_speaks_of_it() -> None:
    known = widths(40, 0)
    noise = 0.05 * np.random.default_rng(2).standard_normal(40)
    said = Residual.left_out(known, SIZES, noise)
    assert abs(np.corrcoef(said, noise)[0, 1]) < 0.5  # noise tells nothing of further noise
    changed = noise.copy()
    changed[0] += 1.0
    assert Residual.left_out(known, SIZES, changed)[0] == pytest.approx(said[0])


def test_it_travels_as_json() -> None:
    known = widths(30, 0)
    found = Residual.fit(known, SIZES, bow(known))
    again = Residual.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_allclose(again.of(widths(9, 3)), found.of(widths(9, 3)))


def crossed(kept) -> float:
    """Layers that hinder each other in the middle of their ranges."""
    a, b, c = kept["layer0"] / 64, kept["layer1"] / 48, kept["layer2"] / 40
    return float((1.0 + a + b + c) * np.exp(0.4 * np.sin(4 * a) * np.sin(4 * b)))


def test_a_profile_has_it_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain((64, 48, 40))
    samples, unseen = samples_of(graph, crossed, 90), samples_of(graph, crossed, 40, seed=1)

    def fitted() -> LatencyPredictor:
        return LatencyPredictor.from_samples(graph, samples, device=DEVICE, dense_ms=3.0)

    def error(of: LatencyPredictor) -> float:
        return float(np.mean([abs(of.predict(it.kept) / 3.0 / it.ratio - 1) for it in unseen]))

    found = fitted()
    assert found.residual is not None
    again = LatencyPredictor.from_dict(json.loads(json.dumps(found.to_dict())), graph)
    assert again.predict(unseen[0].kept) == pytest.approx(found.predict(unseen[0].kept))
    monkeypatch.setattr(predictor, "_WORTHWHILE", 0.0)
    plain = fitted()
    assert plain.residual is None
    assert error(found) < 0.8 * error(plain)
    assert found.error < 0.8 * plain.error


def test_a_profile_is_additive_where_a_correction_only_learns_noise() -> None:
    graph = chain((64, 48, 40))
    rng = np.random.default_rng(5)

    def noisy(kept) -> float:
        return (kept["layer0"] + kept["layer1"] + 60) * float(np.exp(0.05 * rng.standard_normal()))

    found = LatencyPredictor.from_samples(
        graph, samples_of(graph, noisy, 60), device=DEVICE, dense_ms=3.0
    )
    assert found.residual is None
