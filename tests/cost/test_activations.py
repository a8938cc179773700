"""Which activations live at once, and what they take."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.architecture import INT8
from autoprune.cost.activations import COUNTED, Activations, PeakMemory, live, maximal, taken
from autoprune.cost.sizes import Sizes
from autoprune.graph import Block, Dim, Group, Op, PruningGraph, TensorInfo, trace


def test_contained_live_sets_are_left_out():
    rows = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 1, 1], [0, 0, 1]], bool)
    assert maximal(rows).tolist() == [[True, True, False], [False, True, True]]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_leaving_rows_out_changes_no_peak(rows: list[list[bool]]) -> None:
    whole = np.array(rows, dtype=bool)
    left = maximal(whole)
    weights = np.random.default_rng(0).uniform(0.1, 1.0, (20, 4))
    assert (weights @ left.T).max(1) == pytest.approx((weights @ whole.T).max(1))
    for before, after in itertools.pairwise(left):
        assert (before & ~after).any()
        assert (after & ~before).any()


def test_a_count_is_inputs_and_the_rest_and_a_runtime_weighs_the_rest() -> None:
    peaks = np.array([[100.0, 10.0, 16.0, 64.0, 3.0], [0.0, 5.0, 8.0, 0.0, 0.0]])
    assert COUNTED.of(peaks).tolist() == [110.0, 5.0]
    weighed = PeakMemory(2.0, 0.5, 0.25, 3.0).of(peaks).tolist()
    assert weighed == [100.0 + 20.0 + 8.0 + 16.0 + 9.0, 10.0 + 4.0]


def chain(*, freed: dict[int, int] | None = None) -> PruningGraph:
    """x (10) -> a (2 a unit) -> b (3) -> y = b + a; units of 4."""
    dims = (Dim(10), Dim(0, {"a": 2}), Dim(3), Dim(1))
    ops = [((0,), (1,)), ((1,), (2,)), ((2, 1), (3,))]
    return PruningGraph(
        groups=(Group("a", "channel", 4, ()),),
        frozen=(),
        ops=tuple(Op("op", "", *each, ()) for each in ops),
        tensors=tuple(TensorInfo((dim,), 4, place) for place, dim in enumerate(dims)),
        parameters={},
        buffers={},
        inputs=(0,),
        outputs=(3,),
        freed=freed,
    )


def peaks(graph: PruningGraph, *widths: int) -> list[list[float]]:
    counts = np.array([[width] for width in widths])
    return Activations(graph, Sizes(graph.sizes())).peaks(counts).tolist()


def test_peaks_by_hand() -> None:
    # the input stays; at the last call there are a (2 x 4), b (3) and y (1)
    assert peaks(chain(), 4, 1) == [
        [40.0, 4.0 * 12, 4.0 * 12, 0.0, 0.0],
        [40.0, 4.0 * 6, 4.0 * 12, 0.0, 0.0],
    ]


def test_what_is_between_input_and_output_takes_a_byte_in_int8() -> None:
    # the input stays; at the last call there are a (2 x 4) and b (3), and y (1) in float32
    found = Activations(chain(), Sizes(chain().sizes()), INT8).peaks(np.array([[4]])).tolist()
    assert found == [[40.0, 8.0 + 3.0 + 4.0, 0.0, 0.0, 0.0]]


def test_indices_are_not_quantized() -> None:
    graph = chain()
    tensors = (graph.tensors[0], replace(graph.tensors[1], itemsize=8), *graph.tensors[2:])
    graph = replace(graph, tensors=tensors)
    found = Activations(graph, Sizes(graph.sizes()), INT8).peaks(np.array([[4]]))
    assert found[0, 1] == 8.0 * 8 + 3.0 + 4.0


def test_convolutions_in_int8_take_windows_and_sums() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 3, padding=1, stride=2)
    )
    graph = trace(model, torch.zeros(1, 2, 4, 4))
    found = Activations(graph, Sizes(graph.columns()), INT8).peaks(np.array([[4, 8], [1, 8]]))
    # windows: 2 x 9 for 16 pixels, none of single pixels, then 8 x 9 for 4 pixels, which fit
    assert found[:, 3].tolist() == [288.0, 288.0]
    # sums: 4 and 8 channels at 16 pixels, where the second needs more than the first; 2 at 4
    assert found[:, 4].tolist() == [4.0 * 16 * (4 + 8), 4.0 * 16 * (1 + 8)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "windows", "sums"),
    [
        (8, 16, 1, 8 * 9 * 16, 0),  # a pointer for each pixel of each window
        (6, 16, 1, 6 * 9 * 16, 4 * 16 * 16),  # inputs that are no multiple of 4
        (4, 16, 1, 4 * 9 * 16, 4 * 16 * 16),  # and too few of them
        (8, 12, 1, 8 * 9 * 16, 4 * 12 * 16),
        (16, 16, 16, 8 * 9 * 16, 0),
        (6, 6, 6, 8 * 9 * 16, 4 * 6 * 16),
    ],
)
def test_fast_kernels_of_int8_point_to_windows_and_keep_no_sums(
    inputs: int, outputs: int, groups: int, windows: int, sums: int
) -> None:
    model = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
    graph = trace(model, torch.zeros(1, inputs, 4, 4))
    counts = np.array([list(graph.columns().values())])
    found = Activations(graph, Sizes(graph.columns()), INT8).peaks(counts)
    assert found[0, 3:].tolist() == [windows, sums]


def test_a_convolution_that_needs_no_more_than_one_before_uses_its_buffer() -> None:
    needed = np.array([[3.0, 3.0, 2.0, 5.0, 4.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert taken(needed).tolist() == [8.0, 5.0]


def test_what_the_run_held_longer_lives_longer() -> None:
    alive = live(chain(), [0, 1, 2, 3]).astype(int).tolist()
    assert alive == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    graph = chain(freed={1: 2, 2: 2})
    assert live(graph, [0, 1, 2, 3]).astype(int).tolist() == alive
    short = replace(chain(), ops=chain().ops[:2], outputs=(2,), tensors=chain().tensors[:3])
    assert live(short, [0, 1, 2]).astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]
    # a storage that is not listed lived until the end
    held = replace(short, freed={1: 0})
    assert live(held, [0, 1, 2]).astype(int).tolist() == [[1, 1, 0], [1, 1, 1]]


def test_views_are_one_storage() -> None:
    graph = chain()
    tensors = (*graph.tensors[:2], replace(graph.tensors[2], storage=1), graph.tensors[3])
    assert peaks(replace(graph, tensors=tensors), 4) == [[40.0, 4.0 * 9, 4.0 * 9, 0.0, 0.0]]


def test_a_graph_without_calls_holds_its_inputs() -> None:
    graph = replace(chain(), ops=(), outputs=(0,), tensors=chain().tensors[:1])
    assert peaks(graph, 4) == [[40.0, 0.0, 0.0, 0.0, 0.0]]


def test_the_sum_stays_where_its_block_is_gone() -> None:
    # x (10) -> f(x) (10) -> x + f(x) (10); the block is f with its addition
    graph = PruningGraph(
        groups=(),
        frozen=(),
        ops=(Op("f", "f", (0,), (1,), ()), Op("add", "", (0, 1), (2,), ())),
        tensors=tuple(TensorInfo((Dim(10),), 4, place) for place in range(3)),
        parameters={},
        buffers={},
        inputs=(0,),
        outputs=(2,),
        blocks=(Block("f", "residual", 1, frozenset({0, 1}), 0, (), ()),),
    )
    found = Activations(graph, Sizes(graph.columns())).peaks(np.array([[1], [0]])).tolist()
    assert found == [[40.0, 80.0, 80.0, 0.0, 0.0], [40.0, 40.0, 40.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("widths", "kernel", "buffer"),
    [
        ((8, 12), 3, 0.0),
        ((8, 10), 3, 65536.0),
        ((9, 12), 3, 65536.0),
        ((7, 6), 3, 0.0),  # fewer than a block: read as they are
        ((9, 10), 1, 0.0),  # single pixels need no windows
    ],
)
def test_a_convolution_of_channels_that_fit_no_blocks_has_a_buffer(
    widths: tuple[int, int], kernel: int, buffer: float
) -> None:
    sizes = [(3, 16), (16, 16), (16, 4)]
    model = nn.Sequential(*[nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b in sizes])
    graph = trace(model, torch.zeros(1, 3, 6, 6))
    found = Activations(graph, Sizes(graph.columns())).peaks(np.array([widths]))
    assert found[0, 3] == buffer


def test_the_buffer_goes_with_its_block() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 3, padding=1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inside(x)

    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), Residual()), torch.zeros(1, 3, 6, 6))
    assert list(graph.sizes()) == ["1.inside.0"]
    counts = np.array([[10, 1], [10, 0], [12, 1]])
    found = Activations(graph, Sizes(graph.columns())).peaks(counts)
    assert found[:, 3].tolist() == [65536.0, 0.0, 0.0]
