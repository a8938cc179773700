"""Encodings and posteriors by hand, and the fit's invariances."""

import math
from dataclasses import replace

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune._search.sampling.surrogate import (
    Posterior,
    ScoredCandidate,
    Surrogate,
    encode,
    expected_improvement,
    place_of,
)
from autoprune.candidate import Candidate
from autoprune.pareto import hypervolume
from autoprune.space.settings import Parameter

PLAN = toy.make_plan()


def test_the_prior_is_the_score_and_what_groups_do_alone() -> None:
    one = Candidate(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))
    assert ScoredCandidate(one, -2.0, (1.0,)).prior == -2.0
    assert ScoredCandidate(one, -2.0, (1.0,), 0.5).prior == -1.5


@pytest.mark.parametrize(
    ("value", "log", "place"),
    [(1.0, False, 0.0), (100.0, False, 1.0), (50.5, False, 0.5), (10.0, True, 0.5)],
)
def test_a_place_is_on_the_parameters_own_scale(value: float, log: bool, place: float) -> None:
    assert place_of(Parameter("x", 1.0, 100.0, log=log), value) == pytest.approx(place)


def test_a_place_beyond_the_ends_is_an_end_and_a_point_is_the_middle() -> None:
    ends = Parameter("x", 1.0, 2.0)
    assert [place_of(ends, value) for value in (0.0, 5.0)] == [0.0, 1.0]
    assert place_of(Parameter("x", 1.0, 1.0), 1.0) == 0.5


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, [-1.0, 0.5]), (1.0, [0.0, -0.5]), (2.0, [1.0, 0.5])]
)
def test_a_number_is_its_place_and_the_square_around_0(value: float, expected: list[float]) -> None:
    assert encode(Parameter("x", 0.0, 2.0), value) == expected


def test_a_choice_is_one_of_them() -> None:
    kinds = Parameter("x", choices=("a", "b", "c"))
    assert [encode(kinds, kind) for kind in ("a", "c")] == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert encode(Parameter("x", choices=(False, True)), True) == [0.0, 1.0]


def test_the_median_of_a_posterior() -> None:
    assert Posterior(0.1, math.log(0.2), 3.0).median == pytest.approx(0.3)
    assert Posterior.certain(-4.0).median == pytest.approx(-4.0)


@settings(max_examples=40, deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(-3.0, 1.0), st.floats(0.01, 2.0))
def test_expected_improvements_lie_between_their_bounds(
    floor: float, excess: float, deviation: float
) -> None:
    """E[max(0, h - y)] is convex in h, at most h - floor, and at least h - E[y]."""
    heights = np.linspace(floor - 1.0, floor + 5.0, 61)
    found = Posterior(floor, excess, deviation).below(heights)
    mean = floor + math.exp(excess + deviation**2 / 2.0)
    assert (found >= np.maximum(heights - mean, 0.0) - 1e-9).all()
    assert (found <= np.maximum(heights - floor, 0.0) + 1e-9).all()
    assert (np.diff(found, 2) >= -1e-9).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(-1.0, 1.0), st.floats(-3.0, 1.0))
def test_less_uncertainty_comes_near_to_none(floor: float, excess: float) -> None:
    heights = np.linspace(floor - 1.0, floor + 5.0, 31)
    sharp = Posterior(floor, excess, 1e-6).below(heights)
    certain = Posterior(floor, excess, 0.0).below(heights)
    assert certain == pytest.approx(np.maximum(heights - floor - math.exp(excess), 0.0))
    np.testing.assert_allclose(sharp, certain, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 12)] * 3), max_size=6), st.tuples(*[st.integers(0, 11)] * 3)
)
def test_a_certain_point_gains_what_it_adds_to_the_hypervolume(
    front: list[tuple[int, ...]], point: tuple[int, ...]
) -> None:
    """Counted in unit cubes; ties, points beyond the reference and dominated ones included."""
    grid = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)

    def covered(points: list[tuple[int, ...]]) -> int:
        rows = np.array(points).reshape(-1, 3)
        return int((rows[None] <= grid[:, None]).all(2).any(1).sum())

    gain = covered([*front, point]) - covered(front)
    found = expected_improvement(
        np.array(front, dtype=float).reshape(-1, 3),
        (10.0, 10.0, 10.0),
        Posterior.certain(float(point[0])),
        point[1:],
    )
    assert found == pytest.approx(gain, abs=1e-9)
    inside = [p for p in front if max(p) < 10]
    assert covered(front) == hypervolume(np.array(inside).reshape(-1, 3), (10.0,) * 3)


def drawn(count: int, seed: int = 0) -> list[ScoredCandidate]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        params = {f"ratio.{name}": float(rng.uniform(0.0, 0.8)) for name in toy.SIZES}
        made = PLAN.space.candidate({**params, "recovery.lr": float(rng.uniform(0.01, 0.1))})
        macs = PLAN.cost(made).get("macs")
        found.append(ScoredCandidate(made, float(rng.normal()), (macs,), float(rng.normal())))
    return found


def test_a_fit_does_not_depend_on_the_unit_of_a_cost_nor_on_the_origin_of_scores() -> None:
    scored = drawn(12)
    targets = [it.score + 0.1 * it.log_sensitivity for it in scored]
    other = [
        replace(
            it,
            costs=(1000.0 * it.costs[0],),
            score=it.score + 7.0,
            log_sensitivity=it.log_sensitivity - 3.0,
        )
        for it in scored
    ]
    worst = max(targets)
    plain = Surrogate(PLAN, scored, targets, worst)(scored)
    moved = Surrogate(PLAN, other, targets, worst)(other)
    assert [p.median for p in moved] == pytest.approx([p.median for p in plain], rel=1e-6)
    assert [p.deviation for p in moved] == pytest.approx([p.deviation for p in plain], rel=1e-6)


def test_scaled_metrics_have_scaled_forecasts() -> None:
    scored = drawn(12)
    targets = [it.score for it in scored]
    plain = Surrogate(PLAN, scored, targets, max(targets))(scored)
    scaled = [10.0 * y + 3.0 for y in targets]
    other = Surrogate(PLAN, scored, scaled, max(scaled))(scored)
    assert [p.median for p in other] == pytest.approx([10.0 * p.median + 3.0 for p in plain])


def test_no_forecast_is_better_than_the_floor_below_the_best() -> None:
    scored = drawn(10)
    targets = [it.score for it in scored]
    best, worst = min(targets), max(targets)
    posteriors = Surrogate(PLAN, scored, targets, worst)(drawn(50, seed=1))
    floor = best - 0.05 * (worst - best)
    assert [p.floor for p in posteriors] == pytest.approx([floor] * 50)
    assert all(p.median > floor for p in posteriors)


def test_a_score_may_mean_more_where_models_are_dear() -> None:
    scored, unseen = drawn(60), drawn(40, seed=1)
    logs = np.log([it.costs[0] for it in (*scored, *unseen)])
    steep = (logs - logs.mean()) / logs.std()
    gaps = np.exp([0.3 * it.score * k for it, k in zip((*scored, *unseen), steep, strict=True)])
    posteriors = Surrogate(PLAN, scored, gaps[:60].tolist(), float(gaps.max()))(unseen)
    assert np.corrcoef([p.median for p in posteriors], gaps[60:])[0, 1] > 0.8


def test_scores_are_not_extrapolated_beyond_three_deviations() -> None:
    scored = drawn(10)
    targets = [it.score for it in scored]
    fitted = Surrogate(PLAN, scored, targets, max(targets))
    spread = np.std(targets)
    far = [replace(scored[0], score=float(np.mean(targets) + k * spread)) for k in (3.0, 50.0)]
    assert [p.median for p in fitted(far[:1])] == pytest.approx([p.median for p in fitted(far[1:])])
