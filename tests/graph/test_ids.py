from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.graph.ids import IN, OUT, Ids

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
