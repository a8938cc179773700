import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import additive, least_total

from autoprune._search.allocation.exchange import exchange, fill
from autoprune._search.allocation.problem import Bounded, Item, Problem


def smallest(bounded: Bounded) -> np.ndarray:
    return np.zeros(len(bounded.problem.items), dtype=np.int64)


def single_steps(bounded: Bounded, row: np.ndarray) -> np.ndarray:
    """All rows that differ from one in a single item, written down one by one."""
    rows = []
    for item, count in enumerate(bounded.problem.counts):
        for option in range(count):
            if option != row[item]:
                rows.append([*row[:item], option, *row[item + 1 :]])
    return np.array(rows, dtype=np.int64).reshape(-1, len(row))


@settings(max_examples=40, deadline=None)
@given(additive(5))
def test_filled_means_no_step_up_fits_that_lowers_the_total(bounded: Bounded) -> None:
    found = fill(bounded, smallest(bounded))
    assert bounded.fits(found[None])[0]
    total = bounded.total(found)
    assert total <= bounded.total(smallest(bounded))
    steps = single_steps(bounded, found)
    distances = (steps - found).sum(axis=1)
    steps = steps[np.isin(distances, (1, 2, 4, 8))]
    for row in steps[bounded.fits(steps)] if len(steps) else ():
        assert bounded.total(row) >= total - 1e-9


@settings(max_examples=40, deadline=None)
@given(additive(2))
def test_an_exchange_of_two_items_is_the_best_of_all_choices(bounded: Bounded) -> None:
    # with two items, whatever is better is a single step or an exchange
    found = exchange(bounded, smallest(bounded))
    assert bounded.fits(found[None])[0]
    assert bounded.total(found) == pytest.approx(least_total(bounded), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(additive(5))
def test_an_exchange_is_never_worse_and_no_other_exchange_is_left(bounded: Bounded) -> None:
    start = fill(bounded, smallest(bounded))
    found = exchange(bounded, start)
    assert bounded.fits(found[None])[0]
    total = bounded.total(found)
    assert total <= bounded.total(start)
    for row in single_steps(bounded, found):
        pairs = single_steps(bounded, row)
        for both in pairs[bounded.fits(pairs)]:
            assert bounded.total(both) >= total - 1e-9


@settings(max_examples=40, deadline=None)
@given(additive(4), st.integers(0, 3))
def test_an_item_that_may_not_change_does_not(bounded: Bounded, place: int) -> None:
    free = bounded.free.copy()
    free[min(place, len(free) - 1)] = False
    fixed = Bounded(bounded.problem, bounded.limits, free)
    found = exchange(fixed, fill(fixed, smallest(fixed)))
    assert found[~free].tolist() == [0]


def test_no_rounds_change_nothing() -> None:
    items = [Item("a", (1, 2)), Item("b", (1, 2))]
    table = {("a", 1): 1.0, ("b", 1): 3.0}
    problem = Problem(items, lambda *it: table.get(it, 0.0), lambda w: w.sum(axis=1))
    bounded = Bounded(problem, np.array([3.0]), np.ones(2, dtype=bool))
    row = np.array([1, 0])  # b is three times as sensitive
    assert exchange(bounded, row, rounds=0).tolist() == [1, 0]
    assert exchange(bounded, row).tolist() == [0, 1]
    assert row.tolist() == [1, 0]


def test_where_two_items_meet_loads_do_not_add_up() -> None:
    # 4 x 4 is at the limit; alone, 8 adds 16 and 2 takes 8, but 8 x 2 is at the limit too
    items = [Item("a", (4, 8)), Item("b", (2, 4))]
    table = {("a", 4): 5.0, ("b", 2): 1.0}
    problem = Problem(items, lambda *it: table.get(it, 0.0), lambda w: w.prod(axis=1))
    bounded = Bounded(problem, np.array([16.0]), np.ones(2, dtype=bool))
    assert exchange(bounded, np.array([0, 1])).tolist() == [1, 0]


def test_a_dropped_block_comes_back_at_widths_that_fit() -> None:
    items = [Item("block", (0, 1)), Item("in", (1, 2, 3, 4, 5), "block"), Item("out", (1, 2))]
    table = {("block", 0): 10.0, ("out", 1): 1.0} | {("in", k): 5.0 - k for k in range(1, 6)}
    problem = Problem(
        items, lambda *it: table.get(it, 0.0), lambda w: w[:, 0] * w[:, 1] + 3.0 * w[:, 2]
    )
    bounded = Bounded(problem, np.array([6.0]), np.ones(3, dtype=bool))
    assert fill(bounded, np.array([0, 0, 0])).tolist() == [1, 2, 0]  # 3 and 3: 2 and 1 are lost
    kept_out = Bounded(problem, np.array([6.0]), np.array([False, True, True]))
    assert fill(kept_out, np.array([0, 0, 0])).tolist() == [0, 0, 1]


def test_loads_that_are_rounded_otherwise_in_another_batch_end_no_search() -> None:
    """A sum just at a limit may come out above it where it is computed for other rows at once."""
    sizes: list[int] = []

    def load(options: np.ndarray) -> np.ndarray:
        sizes.append(len(options))
        return options.sum(axis=1) / 10.0 + (1e-12 if len(options) == 2 else 0.0)

    items = [Item("a", tuple(range(1, 10))), Item("b", (1,))]
    problem = Problem(items, lambda name, option: 1.0 / option, load)
    bounded = Bounded(problem, np.array([1.0]), np.array([True, True]))
    row = fill(bounded, np.array([7, 0]))  # 8 + 1: one step up is just at the limit
    assert row.tolist() == [8, 0]
    assert 2 in sizes
