"""Non-negative fits, and the error that is told of them."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.device import fitting


def test_farthest_rows_are_where_nothing_is_known_yet():
    x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.9], [1.0, 0.1]])
    assert fitting.farthest(x, [0, 1], [2, 3, 4], 1, np.full(2, 0.01)) == [2]
    # once the second direction is known, the variance along it has all but gone
    chosen = fitting.farthest(x, [0, 1], [2, 3, 4], 2, np.full(2, 0.01))
    after = x[[0, 1, 2]].T @ x[[0, 1, 2]] + 0.01 * np.eye(2)
    variance = {row: x[row] @ np.linalg.inv(after) @ x[row] for row in (3, 4)}
    assert chosen == [2, max(variance, key=variance.__getitem__)]


def drawn(rows: int = 30, features: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 1.0, (rows, features)), np.arange(features) < 2


def test_an_exact_law_is_found_where_nothing_is_penalized():
    x, shared = drawn()
    law = np.array([0.5, 0.0, 2.0, 1.0])
    assert fitting.fit(x, x @ law, shared, (0.0, 0.0)) == pytest.approx(law, abs=1e-9)


def test_coefficients_are_not_negative_and_meet_the_conditions_of_the_least_sum():
    """At the minimum no coefficient can be raised or lowered to gain (Kuhn and Tucker)."""
    x, shared = drawn()
    y = np.random.default_rng(1).uniform(0.5, 1.5, len(x))
    penalty = (0.01, 0.1)
    found = fitting.fit(x, y, shared, penalty)
    weak = np.where(shared, *penalty) * len(y)
    slope = (x / y[:, None]).T @ (x @ found / y - 1.0) + weak * found
    assert (found >= 0.0).all()
    assert slope[found > 0] == pytest.approx(0.0, abs=1e-8)
    assert (slope[found == 0] >= -1e-8).all()


def test_a_penalty_draws_the_features_that_it_is_on_to_zero():
    x, shared = drawn()
    y = x @ np.ones(4)
    near = fitting.fit(x, y, shared, (0.0, 1e6))
    assert near[2:] == pytest.approx(0.0, abs=1e-4)
    assert (near[:2] > 0.5).all()


@pytest.mark.parametrize("rows", [10, 23])
def test_each_row_but_the_first_is_held_out_once(rows: int):
    held = np.array(fitting.folds(rows))
    assert held.shape == (5, rows)
    assert held.sum(axis=0).tolist() == [0] + [1] * (rows - 1)
    assert set(held.sum(axis=1)) <= {(rows - 1) // 5, (rows - 1) // 5 + 1}


def test_a_row_is_predicted_from_the_others_alone():
    x, shared = drawn()
    y = x @ np.array([0.5, 0.3, 2.0, 1.0])
    penalty = (1e-3, 1e-2)
    before = fitting.left_out(x, y, shared, penalty)
    place = 7
    fold = next(held for held in fitting.folds(len(y)) if held[place])
    changed = y.copy()
    changed[fold] *= 5.0
    after = fitting.left_out(x, changed, shared, penalty)
    assert after[fold] == pytest.approx(before[fold])
    assert before[place] == pytest.approx(
        x[place] @ fitting.fit(x[~fold], y[~fold], shared, penalty)
    )
    assert before[0] == y[0]  # the dense model is never left out
    error = np.mean(np.abs(before[1:] / y[1:] - 1.0))
    assert fitting.error_left_out(x, y, shared, penalty) == pytest.approx(error)


def test_the_best_penalty_has_the_least_error_of_all():
    x, shared = drawn()
    y = x @ np.array([0.5, 0.0, 0.1, 0.0]) * np.random.default_rng(2).lognormal(0.0, 0.1, len(x))
    penalty, error = fitting.best_penalty(x, y, shared)
    errors = {each: fitting.error_left_out(x, y, shared, each) for each in fitting.PENALTIES}
    assert (penalty, error) == min(errors.items(), key=lambda item: item[1])


def test_a_place_that_is_uniformly_slower_has_the_same_law_times_a_factor():
    x, shared = drawn()
    base = np.array([0.5, 0.2, 2.0, 1.0])
    found, told = fitting.moved(x[:6], 1.05 * x[:6] @ base, base, shared)
    assert x @ found == pytest.approx(1.05 * x @ base, rel=1e-3)
    assert told == pytest.approx(1.05 * x[:6] @ base, rel=0.01)


def test_what_is_told_of_a_moved_row_comes_from_the_others():
    x, shared = drawn()
    base = np.array([0.5, 0.2, 2.0, 1.0])
    y = x[:6] @ base
    y[3] *= 3.0  # an outlier does not tell itself
    _, told = fitting.moved(x[:6], y, base, shared)
    assert told[3] < 2.0 * y[3] / 3.0


def test_the_farthest_are_those_of_the_largest_variance_each_time():
    x, _ = drawn(20, 3)
    weak, known, left = np.array([0.1, 0.2, 0.3]), [0, 1], list(range(2, 20))
    wanted, matrix = [], x[known].T @ x[known] + np.diag(weak)
    for _ in range(5):
        inverse = np.linalg.inv(matrix)
        place = max(left, key=lambda row: x[row] @ inverse @ x[row])
        wanted.append(place)
        left.remove(place)
        matrix += np.outer(x[place], x[place])
    assert fitting.farthest(x, known, range(2, 20), 5, weak) == wanted
    assert sorted(fitting.farthest(x, known, range(2, 6), 99, weak)) == [2, 3, 4, 5]


def test_powers_are_found_and_drawn_to_the_first_column_alone():
    rng = np.random.default_rng(0)
    logs = -rng.uniform(0.0, 2.0, (60, 3))
    law = np.array([0.7, 0.3, 0.0])
    assert fitting.powers(logs, logs @ law) == pytest.approx(law, abs=0.01)
    near = 1e-3 * logs  # almost dense: they say nothing
    assert fitting.powers(near, near @ law) == pytest.approx([1.0, 0.0, 0.0], abs=0.01)


def test_powers_are_not_negative():
    logs = -np.random.default_rng(0).uniform(0.0, 2.0, (60, 2))
    found = fitting.powers(logs, logs @ np.array([1.2, -0.5]))
    assert (found >= 0.0).all()
    assert found[1] == 0.0


def test_something_of_the_first_column_stays():
    logs = -np.random.default_rng(0).uniform(0.0, 2.0, (60, 2))
    assert fitting.powers(logs, logs[:, 1]) == pytest.approx([0.1, 1.0], abs=0.05)
