import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import additive, all_rows, least_total

from autoprune._search.allocation.problem import Bounded, Item, Problem
from autoprune._search.allocation.relaxation import relax


@settings(max_examples=40, deadline=None)
@given(additive(4), st.booleans())
def test_it_is_within_the_limits_and_never_worse_than_a_start_that_is(
    bounded: Bounded, far: bool
) -> None:
    start = np.zeros(len(bounded.problem.items), dtype=np.int64)
    found = relax(bounded, start, far=far)
    assert found is not None
    assert bounded.fits(found[None])[0]
    assert least_total(bounded) - 1e-9 <= bounded.total(found) <= bounded.total(start)


@st.composite
def priced(draw: st.DrawFn) -> tuple[Bounded, float]:
    """Loads that add up, and the total at a limit at which a price gives the best choice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.integers(2, 5), min_size=1, max_size=4))
    items = [Item(str(place), tuple(range(1, count + 1))) for place, count in enumerate(counts)]
    weights = rng.uniform(0.5, 2.0, len(items))
    table = [np.sort(rng.uniform(0.1, 10.0, count))[::-1] for count in counts]
    problem = Problem(items, lambda n, k: float(table[int(n)][k - 1]), lambda w: w @ weights)
    price = rng.uniform(0.1, 5.0)
    rows = all_rows(problem)
    best = rows[np.argmin(problem.total(rows) + price * problem.loads(rows)[:, 0])]
    limit = problem.loads(best[None])[0] * (1.0 + 1e-9)
    bounded = Bounded(problem, limit, np.ones(len(items), dtype=bool))
    return bounded, float(problem.total(best[None])[0])


@settings(max_examples=40, deadline=None)
@given(priced())
def test_what_some_price_makes_the_best_is_found(case: tuple[Bounded, float]) -> None:
    bounded, total = case
    assert total == pytest.approx(least_total(bounded))  # as Everett's theorem says
    found = relax(bounded, bounded.problem.last)
    assert found is not None
    assert bounded.total(found) == pytest.approx(total)


def test_nothing_is_found_where_nothing_is_within_the_limits() -> None:
    problem = Problem([Item("a", (1, 2))], lambda n, k: 1.0 / k, lambda w: w.sum(axis=1))
    bounded = Bounded(problem, np.array([0.5]), np.ones(1, dtype=bool))
    assert relax(bounded, np.array([1])) is None


def test_the_start_is_the_answer_where_no_item_may_change() -> None:
    problem = Problem([Item("a", (1, 2))], lambda n, k: 1.0 / k, lambda w: w.sum(axis=1))
    bounded = Bounded(problem, np.array([2.0]), np.zeros(1, dtype=bool))
    assert relax(bounded, np.array([0])).tolist() == [0]


def test_only_with_far_may_the_first_round_go_anywhere() -> None:
    # every width on the way is refused by the load; 4 places further it fits
    items = [Item("a", tuple(range(1, 12)))]
    loads = np.array([9.0] * 5 + [1.0] + [9.0] * 5)
    problem = Problem(items, lambda n, k: 12.0 - k, lambda w: loads[w[:, 0] - 1])
    bounded = Bounded(problem, np.array([1.0]), np.ones(1, dtype=bool))
    assert relax(bounded, np.array([10]), far=False) is None
    assert relax(bounded, np.array([10])).tolist() == [5]


@pytest.mark.parametrize(("dropped", "total"), [(1.0, 1.0), (3.0, 2.0)])
def test_a_block_goes_where_that_is_less_sensitive(dropped: float, total: float) -> None:
    items = [Item("block", (0, 1)), Item("a", (1, 2), "block"), Item("b", (1, 2))]
    table = {("block", 0): dropped, ("a", 1): 2.0, ("b", 1): 5.0}
    problem = Problem(
        items,
        lambda *it: table.get(it, 0.0),
        lambda w: 4.0 * w[:, 0] * w[:, 1] + w[:, 2],
    )
    bounded = Bounded(problem, np.array([6.0]), np.ones(3, dtype=bool))
    found = relax(bounded, problem.last)
    assert found is not None
    assert bounded.total(found) == total
