from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.graph.ids import IN, OUT, Ids
from autoprune.graph.reshape import blocks, carrier, tie

PAIRS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


@given(PAIRS)
def test_classes_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    ids = Ids()
    ids.fresh(30)
    for start in range(0, len(pairs), 7):  # several vectorised unions
        part = np.array(pairs[start : start + 7], dtype=np.int64)
        ids.union(part[:, 0], part[:, 1])
    colour = list(range(30))
    for a, b in pairs * 30:  # brute force: paint until nothing changes
        colour[a] = colour[b] = min(colour[a], colour[b])
    assert ids.roots().tolist() == colour


def test_a_fixed_position_freezes_what_meets_it_and_its_whole_class() -> None:
    ids = Ids()
    a, b = ids.fresh(3), ids.fresh(3)
    joined = ids.join(a, np.array([b[0], -1, b[2]]), "pad")
    assert joined is not None
    assert joined.tolist() == [0, 1, 2]
    assert ids.reasons() == {1: "pad"}
    ids.union(np.array([1]), np.array([2]))
    assert ids.reasons() == {1: "pad"}
    assert ids.find(b).tolist() == [0, 4, 1]


def test_the_first_role_and_the_first_reason_stay() -> None:
    ids = Ids()
    a = ids.fresh(2)
    ids.mark(a, OUT)
    ids.mark(a, IN)
    ids.block(a[:1], "first")
    ids.block(a, "second")
    assert ids.roles().tolist() == [OUT, OUT]
    assert ids.reasons() == {0: "first", 1: "second"}


def test_ids_survive_growth() -> None:
    ids = Ids()
    a = ids.fresh(1000)
    ids.union(a[:1], a[999:])
    b = ids.fresh(5000)
    assert ids.find(a[999:]).tolist() == [0]
    assert ids.find(b[-1:]).tolist() == [5999]


def test_a_split_carries_ids_on_one_part_only() -> None:
    ids = Ids()
    table = ids.fresh(6).reshape(2, 3)
    assert carrier(ids, table) is None
    assert tie(ids, table, 1).tolist() == [0, 1, 2]
    assert carrier(ids, table) == 1
    assert ids.find(np.arange(6)).tolist() == [0, 1, 2, 0, 1, 2]


def test_blocks_of_a_reshape_with_ones_and_a_zero() -> None:
    assert blocks((1, 6), (1, 2, 3)) == [(range(1), range(1)), (range(1, 2), range(1, 3))]
    assert blocks((2, 6, 1), (2, 6)) == [
        (range(1), range(1)),
        (range(1, 2), range(1, 2)),
        (range(2, 3), range(2, 2)),
    ]
    assert [list(target) for _, target in blocks((0, 4), (0, 2, 2))] == [[0], [1, 2]]
