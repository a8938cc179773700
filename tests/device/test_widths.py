"""Efficient widths, from laws of latency that are known."""

import numpy as np
import pytest
from test_predictor import DEVICE, chain, samples_of

from autoprune.device.predictor import LatencyPredictor
from autoprune.device.widths import efficient_step

GRAPH = chain((64, 48, 40))


def fitted(law) -> LatencyPredictor:
    return LatencyPredictor.from_samples(
        GRAPH, samples_of(GRAPH, law, 80), device=DEVICE, dense_ms=3.0
    )


def in_blocks(block: int):
    """Kernels that fill up their vectors in every layer."""

    def law(kept) -> float:
        a, b, c = (-(-kept[f"layer{n}"] // block) * block for n in range(3))
        return 40 * a + a * b + b * c + 10 * c + 2000

    return law


@pytest.mark.parametrize("block", [8, 16])
def test_the_block_that_kernels_fill_up_is_the_step(block: int) -> None:
    assert efficient_step(GRAPH, [fitted(in_blocks(block))]) == block


def test_slower_kernels_off_a_step_make_it_the_step() -> None:
    def law(kept) -> float:
        a, b, c = (kept[f"layer{n}"] for n in range(3))
        return (1.6 if b % 4 else 1.0) * (a * b + b * c) + 500

    assert efficient_step(GRAPH, [fitted(law)]) == 4


def test_every_width_is_efficient_where_time_rises_smoothly_or_not_at_all() -> None:
    assert efficient_step(GRAPH, [fitted(in_blocks(1))]) == 1
    noise = np.random.default_rng(0)
    assert efficient_step(GRAPH, [fitted(lambda kept: 100.0 * noise.uniform(0.97, 1.03))]) == 1


def test_of_several_devices_the_one_with_steps_decides() -> None:
    assert efficient_step(GRAPH, [fitted(in_blocks(8)), fitted(in_blocks(1))]) == 8
    assert efficient_step(GRAPH, []) is None
