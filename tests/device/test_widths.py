"""Widths that a target likes, from laws of latency that are known."""

import numpy as np
from test_predictor import DEVICE, chain, samples_of

from autoprune.device.predictor import LatencyPredictor
from autoprune.device.widths import liked_widths


def fitted(law) -> LatencyPredictor:
    graph = chain((64, 48, 40))
    return LatencyPredictor.from_samples(
        graph, samples_of(graph, law, 80), device=DEVICE, dense_ms=3.0
    )


def blocks_of_eight(kept) -> float:
    """The first layer's kernel fills up its vectors; the others' work is smooth."""
    a, b, c = kept["layer0"], kept["layer1"], kept["layer2"]
    return 40 * np.ceil(a / 8) * 8 + b * c + 2000


def test_full_vectors_are_liked_and_nothing_between() -> None:
    found = liked_widths([fitted(blocks_of_eight)])["layer0"]
    assert set(found) >= {8, 16, 24, 32, 40, 48, 56, 64}
    assert {width for width in found if width > 25} == {32, 40, 48, 56, 64}


def test_every_width_is_liked_where_time_rises_smoothly() -> None:
    def smooth(kept) -> float:
        a, b, c = kept["layer0"], kept["layer1"], kept["layer2"]
        return a * b + b * c + 500

    assert len(liked_widths([fitted(smooth)])["layer1"]) >= 46


def test_the_whole_group_always_stays_a_choice_and_no_target_likes_nothing() -> None:
    found = liked_widths([fitted(blocks_of_eight), fitted(lambda kept: 100.0)])
    assert {name: widths[-1] for name, widths in found.items()} == {
        "layer0": 64,
        "layer1": 48,
        "layer2": 40,
    }
    assert liked_widths([]) == {}


def test_widths_that_time_does_not_depend_on_are_all_alike() -> None:
    assert liked_widths([fitted(lambda kept: 100.0)]) == {}
    noise = np.random.default_rng(0)
    assert liked_widths([fitted(lambda kept: 100.0 * noise.uniform(0.97, 1.03))]) == {}
