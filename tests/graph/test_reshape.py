"""Labels through views, against the ids of every single element."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.graph.ids import FREE, Ids, free
from autoprune.graph.reshape import blocks, carrier, line, reshape, settle, tie
from autoprune.graph.types import Indices

MERGED = "two channel dimensions are merged into one"


def last(label: Indices, parts: Sequence[int]) -> int:
    """As the flow chooses: the last part with more than one position."""
    return max(place for place, size in enumerate(parts) if size > 1)


@st.composite
def factored(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes with equally many elements."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6))

    def joined() -> tuple[int, ...]:
        shape = [1]
        for factor in factors:
            if draw(st.booleans()):
                shape.append(factor)
            else:
                shape[-1] *= factor
        return tuple(shape)

    return joined(), joined()


@settings(max_examples=40, deadline=None)
@given(factored())
def test_runs_of_a_reshape_cover_all_dimensions_in_order_with_equal_sizes(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    before, after = shapes
    found = blocks(before, after)
    assert [i for source, _ in found for i in source] == list(range(len(before)))
    assert [j for _, target in found for j in target] == list(range(len(after)))
    for source, target in found:
        assert prod(before[i] for i in source) == prod(after[j] for j in target)


def test_blocks_of_a_reshape_with_ones_and_a_zero() -> None:
    assert blocks((1, 6), (1, 2, 3)) == [(range(1), range(1)), (range(1, 2), range(1, 3))]
    assert blocks((2, 6, 1), (2, 6)) == [
        (range(1), range(1)),
        (range(1, 2), range(1, 2)),
        (range(2, 3), range(2, 2)),
    ]
    assert [list(target) for _, target in blocks((0, 4), (0, 2, 2))] == [[0], [1, 2]]


@settings(max_examples=60, deadline=None)
@given(factored(), st.data())
def test_the_ids_of_one_dimension_are_those_of_every_element(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    before, after = shapes
    wide = [place for place, size in enumerate(before) if size > 1]
    if not wide:
        return
    dim, ids = data.draw(st.sampled_from(wide)), Ids()
    label = ids.fresh(before[dim])
    labels = [None] * len(before)
    labels[dim] = label  # type: ignore[call-overload]
    found = reshape(ids, tuple(labels), before, after, last)
    view = [1] * len(before)
    view[dim] = before[dim]
    elements = np.broadcast_to(label.reshape(view), before).reshape(after)
    carried = [place for place, vector in enumerate(found) if vector is not None]
    assert len(carried) == 1
    place = carried[0]
    vector = found[place]
    assert vector is not None
    shape = [1] * len(after)
    shape[place] = after[place]
    expected = np.broadcast_to(ids.find(vector).reshape(shape), after)
    np.testing.assert_array_equal(ids.find(elements.ravel()).reshape(after), expected)
    assert ids.reasons() == {}


def test_a_free_dimension_is_free_in_all_its_parts() -> None:
    found = reshape(Ids(), (None, free(6)), (4, 6), (4, 2, 3), last)
    assert found[0] is None
    assert [x.tolist() for x in found[1:] if x is not None] == [[FREE] * 2, [FREE] * 3]


def test_a_split_may_be_carried_by_another_part() -> None:
    ids = Ids()
    label = ids.fresh(6)
    _, first, second = reshape(ids, (None, label), (4, 6), (4, 2, 3), lambda label, parts: 0)
    assert first is not None
    assert (first.tolist(), second) == ([0, 3], None)
    assert ids.roots().tolist() == [0, 0, 0, 3, 3, 3]


def test_a_part_that_would_leave_one_unit_is_not_offered() -> None:
    ids = Ids()
    label = np.repeat(ids.fresh(4), 3)  # three pixels of each channel
    offered: list[list[int]] = []

    def choose(label: Indices, parts: Sequence[int]) -> int:
        offered.append(list(parts))
        return last(label, parts)

    first, second, third = reshape(ids, (label,), (12,), (2, 2, 3), choose)
    assert offered == [[2, 2, 1]]  # along the pixels all four channels meet
    assert second is not None
    assert (first, second.tolist(), third) == (None, [0, 1], None)
    assert ids.roots().tolist() == [0, 1, 0, 1]


def test_all_parts_are_offered_where_each_would_leave_one_unit() -> None:
    ids = Ids()
    label = ids.fresh(8)[[0, 1, 1, 0, 1, 0, 0, 1]]
    offered: list[list[int]] = []

    def choose(label: Indices, parts: Sequence[int]) -> int:
        offered.append(list(parts))
        return last(label, parts)

    reshape(ids, (label,), (8,), (2, 2, 2), choose)
    assert offered == [[2, 2, 2]]
    assert ids.find(label).tolist() == [0] * 8


@pytest.mark.parametrize(("ranks", "kept", "blocked"), [((1, 0), 0, 1), ((0, 1), 1, 0)])
def test_of_merged_dimensions_the_one_of_highest_rank_keeps_its_ids(
    ranks: tuple[int, int], kept: int, blocked: int
) -> None:
    ids = Ids()
    labels = (ids.fresh(2), ids.fresh(3))

    def rank(label: Indices) -> int:
        return ranks[0 if label is labels[0] else 1]

    (merged,) = reshape(ids, labels, (2, 3), (6,), last, rank)
    assert merged is not None
    expected = [[0, 0, 0, 1, 1, 1], [2, 3, 4, 2, 3, 4]][kept]
    assert merged.tolist() == expected
    assert ids.reasons() == dict.fromkeys(labels[blocked].tolist(), MERGED)


def test_nothing_is_carried_through_a_view_without_elements() -> None:
    ids = Ids()
    assert reshape(ids, (ids.fresh(4), None), (4, 0), (0,), last) == (None,)


def test_a_split_carries_ids_on_one_part_only() -> None:
    ids = Ids()
    table = ids.fresh(6).reshape(2, 3)
    assert carrier(ids, table) is None
    assert tie(ids, table, 1).tolist() == [0, 1, 2]
    assert carrier(ids, table) == 1
    assert ids.find(np.arange(6)).tolist() == [0, 1, 2, 0, 1, 2]


def test_a_fixed_position_of_a_view_fixes_what_shares_its_place() -> None:
    ids = Ids()
    table = np.array([[0, 1], [-1, 3]])
    ids.fresh(4)
    assert tie(ids, table, 1).tolist() == [0, 1]
    assert ids.reasons() == {0: "meets a fixed position in a view"}


def test_a_line_is_taken_at_the_first_position_of_the_others() -> None:
    table = np.arange(24).reshape(2, 3, 4)
    assert line(table, 1).tolist() == [0, 4, 8]
    assert line(table, 2).flags.c_contiguous


def test_an_arrangement_is_settled_with_the_fewest_unions() -> None:
    ids = Ids()
    table = ids.fresh(6).reshape(2, 3)
    place, vector = settle(ids, table) or (-1, np.array([]))
    assert (place, vector.tolist()) == (1, [0, 1, 2])  # three classes stay, not two
    assert ids.classes(np.arange(6)) == 3


def test_an_arrangement_that_varies_along_one_dimension_needs_no_union() -> None:
    ids = Ids()
    label = ids.fresh(3)
    table = np.broadcast_to(label[:, None], (3, 2)).copy()
    place, vector = settle(ids, table) or (-1, np.array([]))
    assert (place, vector.tolist()) == (0, [0, 1, 2])
    assert ids.classes(label) == 3


@pytest.mark.parametrize("table", [np.zeros((0, 2), dtype=np.int64), np.full((2, 2), -1)])
def test_an_arrangement_without_ids_is_none(table: Indices) -> None:
    assert settle(Ids(), table) is None
