import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune._search.allocation.problem import Bounded, Item, Problem, Sensitivity

BLOCK = [Item("out", (2, 4, 8)), Item("block", (0, 1)), Item("in", (1, 3), "block")]
HARM = {("out", 2): 5.0, ("out", 4): 2.0, ("block", 0): 4.0, ("in", 1): 1.0}


def harm(name: str, option: int) -> float:
    return HARM.get((name, option), 0.0)


def problem(items: list[Item] | None = None, sensitivity: Sensitivity = harm) -> Problem:
    """`out` costs 1 a unit, and the block with what is inside 10 a unit."""
    return Problem(items or BLOCK, sensitivity, lambda w: w[:, 0] + 10.0 * w[:, 1] * w[:, 2])


@pytest.mark.parametrize("options", [(), (2, 1), (1, 1)])
def test_options_must_ascend(options: tuple[int, ...]) -> None:
    says = re.escape(f"options of 'a' must be ascending, got {options}")
    with pytest.raises(ValueError, match=f"^{says}$"):
        Item("a", options)


def test_items_must_differ_in_their_names() -> None:
    says = re.escape("items must differ in their names, got ['a', 'b', 'a']")
    with pytest.raises(ValueError, match=f"^{says}$"):
        problem([Item("a", (1,)), Item("b", (1,)), Item("a", (1, 2))])


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Item("b", (1, 2))],
        [Item("b", (0, 1, 2))],
        [Item("b", (0, 1), "c"), Item("c", (0, 1))],
    ],
)
def test_a_block_is_an_item_of_two_options_in_no_other_block(others: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"^the block of 'a' must be an item .*, got ") as caught:
        problem([Item("a", (1, 2), "b"), *others])
    assert str(caught.value).endswith(f"got {others[0] if others else 'b'!r}")


def test_a_problem_is_arrays_of_options_places_and_blocks() -> None:
    made = problem()
    assert made.values.tolist() == [[2, 4, 8], [0, 1, 0], [1, 3, 0]]
    inf = np.inf
    assert made.sensitivities.tolist() == [[5.0, 2.0, 0.0], [4.0, 0.0, inf], [1.0, 0.0, inf]]
    assert made.counts.tolist() == [3, 2, 2]
    assert made.last.tolist() == [2, 1, 1]
    assert made.parent.tolist() == [-1, -1, 1]
    assert {block: inside.tolist() for block, inside in made.members.items()} == {1: [2]}
    assert not made.is_global.any()


def test_what_is_inside_a_dropped_block_does_not_count() -> None:
    rows = np.array([[2, 1, 1], [1, 1, 0], [0, 0, 0]])
    made = problem()
    assert made.matters(rows).tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert made.total(rows).tolist() == [0.0, 3.0, 9.0]  # the last: 5 and 4, not the 1 inside
    assert made.loads(rows).tolist() == [[38.0], [14.0], [2.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 600))
def test_loads_of_many_choices_are_those_of_each(count: int) -> None:
    items = [Item("a", (3, 5)), Item("b", (1, 2, 4))]
    asked: list[int] = []

    def load(options: np.ndarray) -> np.ndarray:
        asked.append(len(options))
        return np.stack([options[:, 0], options[:, 0] * options[:, 1]], axis=1)

    made = Problem(items, lambda name, option: 0.0, load)
    rng = np.random.default_rng(count)
    rows = np.stack([rng.integers(0, 2, count), rng.integers(0, 3, count)], axis=1)
    wanted = [[(3, 5)[a], (3, 5)[a] * (1, 2, 4)[b]] for a, b in rows.tolist()]
    assert made.loads(rows).tolist() == wanted
    assert made.evaluated == count
    assert max(asked) <= 256


def test_the_best_is_the_least_sensitive_within_all_limits() -> None:
    made = Bounded(problem(), np.array([30.0]), np.ones(3, dtype=bool))
    rows = np.array([[2, 1, 1], [1, 1, 0], [2, 1, 0], [0, 0, 0]])  # loads 38, 14, 18, 2
    assert made.fits(rows).tolist() == [False, True, True, True]
    best = made.best(rows)
    assert best is not None
    assert best.tolist() == [2, 1, 0]
    assert made.total(best) == 1.0
    assert made.best(rows[:1]) is None


def test_steps_leave_out_what_is_fixed_has_no_effect_or_does_not_exist() -> None:
    free = np.array([True, True, True])
    made = Bounded(problem(), np.array([99.0]), free)

    def pairs(bounded: Bounded, row: list[int]) -> list[tuple[int, int]]:
        items, options = bounded.steps(np.array(row), lambda d: np.abs(d) <= 1)
        return list(zip(items.tolist(), options.tolist(), strict=True))

    assert pairs(made, [1, 1, 0]) == [(0, 0), (0, 2), (1, 0), (2, 1)]
    assert pairs(made, [0, 0, 0]) == [(0, 1), (1, 1)]
    fixed = Bounded(made.problem, made.limits, np.array([False, True, True]))
    assert pairs(fixed, [1, 1, 0]) == [(1, 0), (2, 1)]


def test_each_change_is_a_row_of_its_own() -> None:
    made = Bounded(problem(), np.array([99.0]), np.ones(3, dtype=bool))
    row = np.array([1, 1, 0])
    rows = made.changed(row, np.array([0, 2]), np.array([2, 1]))
    assert rows.tolist() == [[2, 1, 0], [1, 1, 1]]
    assert row.tolist() == [1, 1, 0]
