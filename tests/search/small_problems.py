"""Small random allocation problems whose best choice is found by trying all of them."""

import itertools

import numpy as np
from hypothesis import strategies as st

from autoprune._search.allocation.problem import Bounded, Item, Problem, Rows


@st.composite
def additive(draw: st.DrawFn, most_items: int, most_options: int = 6) -> Bounded:
    """Any sensitivities; loads that grow with each option and add up over the items."""
    counts = draw(st.lists(st.integers(1, most_options), min_size=1, max_size=most_items))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = [np.sort(rng.choice(np.arange(1, 50), count, replace=False)) for count in counts]
    limits = draw(st.integers(1, 2))
    weights = rng.uniform(0.1, 1.0, (len(counts), limits))
    table = [dict(zip(v.tolist(), rng.uniform(0, 10, len(v)), strict=True)) for v in values]
    problem = Problem(
        [Item(str(place), tuple(v.tolist())) for place, v in enumerate(values)],
        lambda name, option: float(table[int(name)][option]),
        lambda chosen: chosen @ weights,
    )
    lowest, highest = np.array([v[0] for v in values]), np.array([v[-1] for v in values])
    share = draw(st.floats(0.0, 1.0))
    bounds = lowest @ weights + share * ((highest - lowest) @ weights)
    return Bounded(problem, bounds * (1.0 + 1e-9), np.ones(len(counts), dtype=bool))


def all_rows(problem: Problem) -> Rows:
    """Every choice there is."""
    places = [range(count) for count in problem.counts]
    return np.array(list(itertools.product(*places)), dtype=np.int64)


def least_total(bounded: Bounded) -> float:
    """The sensitivity of the best choice within the limits, by trying all."""
    rows = all_rows(bounded.problem)
    within = (bounded.problem.loads(rows) <= bounded.limits).all(axis=1)
    return float(bounded.problem.total(rows[within]).min())
