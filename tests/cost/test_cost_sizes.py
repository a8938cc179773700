"""Many sizes at once, against each by itself."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.cost.sizes import Sizes
from autoprune.graph import Dim

COLUMNS = ("a", "b", "block:x")
DIMS = st.builds(
    Dim,
    st.integers(0, 9),
    st.dictionaries(st.sampled_from(COLUMNS), st.integers(1, 4), max_size=3),
)
COUNTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), min_size=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(DIMS, max_size=4), max_size=5), COUNTS)
def test_products_are_those_of_each_shape(shapes: list[list[Dim]], counts: list[tuple]) -> None:
    sizes = Sizes(COLUMNS)
    products = sizes.products(shapes)
    found = products.of(sizes.of(np.array(counts)))
    assert found.shape == (len(counts), len(shapes))
    for row, count in zip(found.tolist(), counts, strict=True):
        kept = dict(zip(COLUMNS, count, strict=True))
        assert row == [math.prod(dim.size(kept) for dim in dims) for dims in shapes]


def test_shapes_may_be_added_later() -> None:
    sizes = Sizes(COLUMNS)
    first = sizes.products([[Dim(2), Dim(0, {"a": 3})]])
    counts = np.array([[5, 1, 0]])
    assert first.of(sizes.of(counts)).tolist() == [[30.0]]
    second = sizes.products([[Dim(0, {"b": 1})], []])
    assert second.of(sizes.of(counts)).tolist() == [[1.0, 1.0]]
    assert first.of(sizes.of(counts)).tolist() == [[30.0]]


def test_equal_dimensions_are_sized_once() -> None:
    sizes = Sizes(COLUMNS)
    sizes.products([[Dim(2), Dim(2), Dim(1)], [Dim(2), Dim(0, {"a": 1})]])
    assert sizes.of(np.array([[7, 0, 0]])).tolist() == [[1.0, 2.0, 7.0]]


def test_large_counts_are_exact() -> None:
    sizes = Sizes(("a",))
    products = sizes.products([[Dim(0, {"a": 1}), Dim(3)]])
    assert products.of(sizes.of(np.array([[2**51 + 1]])))[0, 0] == 3 * (2**51 + 1)


def test_only_what_depends_on_groups_is_rounded_up() -> None:
    sizes = Sizes(COLUMNS)
    sizes.products([[Dim(3), Dim(1, {"a": 2}), Dim(0, {"block:x": 1}), Dim(0, {"a": 1, "b": 1})]])
    counts = np.array([[4, 4, 1], [8, 0, 0]])
    assert sizes.padded(counts, 8).tolist() == [[1, 3, 16, 1, 8], [1, 3, 24, 0, 8]]
