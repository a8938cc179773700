"""Non-negative least squares on relative errors, its cross-validation, powers, optimal design."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from autoprune.cost.sizes import Floats

Bools = NDArray[np.bool_]
Penalty = tuple[float, float]  # on shared features, on those of single layers

FOLDS = 5
MOVED: tuple[Penalty, ...] = tuple(itertools.product((1e-4, 1e-2), (1e-3, 1e-1, 10.0)))
_LEAST_POWER = 0.1  # of the sum over layers
_NEAR_ONE = 1e-3  # the penalty of powers, as measured: results/latency/powers.md
PENALTIES: tuple[Penalty, ...] = tuple(itertools.product((1e-5, 1e-3, 1e-2), (1e-2, 1.0, 100.0)))


def fit(x: Floats, y: Floats, shared: Bools, penalty: Penalty) -> Floats:
    """Coefficients ≥ 0 with the least sum of squares of (x·c / y - 1) (Lawson & Hanson 1974).

    `x` is `rows x features`, `y` > 0. Each feature's square is penalized by rows times its penalty.
    """
    weak = np.where(shared, *penalty)
    rows = np.concatenate([x / y[:, None], np.diag(np.sqrt(weak * len(y)))])
    target = np.concatenate([np.ones(len(y)), np.zeros(len(weak))])
    return np.asarray(nnls(rows, target, maxiter=50 * len(rows))[0])


def best_penalty(x: Floats, y: Floats, shared: Bools) -> tuple[Penalty, float]:
    """The penalty with the least mean absolute relative error on rows left out; that error."""
    errors = [error_left_out(x, y, shared, penalty) for penalty in PENALTIES]
    place = int(np.argmin(errors))
    return PENALTIES[place], errors[place]


def left_out(x: Floats, y: Floats, shared: Bools, penalty: Penalty) -> Floats:
    """For each row but the first, the cross-validated prediction."""
    predicted = y.copy()
    for held in folds(len(y)):
        predicted[held] = x[held] @ fit(x[~held], y[~held], shared, penalty)
    return predicted


def powers(logs: Floats, wanted: Floats) -> Floats:
    """Powers p ≥ 0 of the first column and the others, so that `logs` @ p is near `wanted`.

    Least squares, penalized for the distance from the first column alone. With predictions of rows
    left out in that column, it is stacked regression (Breiman 1996). The first power is at least
    0.1: something of the column stays, so that it can be solved for.
    """
    alone = np.arange(logs.shape[1]) == 0
    weak = np.sqrt(_NEAR_ONE * len(wanted))
    rows = np.concatenate([logs, weak * np.eye(logs.shape[1])])
    found = nnls(rows, np.concatenate([wanted, weak * alone]), maxiter=50 * len(rows))[0]
    return np.asarray(np.maximum(found, _LEAST_POWER * alone))


def error_left_out(x: Floats, y: Floats, shared: Bools, penalty: Penalty) -> float:
    """The mean absolute relative error on rows left out."""
    return float(np.mean(np.abs(left_out(x, y, shared, penalty)[1:] / y[1:] - 1.0)))


def moved(x: Floats, y: Floats, base: Floats, shared: Bools) -> tuple[Floats, Floats]:
    """Coefficients for a few measurements at another place, and each predicted from the others.

    They are the `base` coefficients times one factor, plus own coefficients of the shared features,
    all non-negative: the factor is penalized for its distance from 1, the others for their size,
    by amounts that leave-one-out chooses.
    """
    basis = np.concatenate([base[:, None], np.eye(len(base))[:, shared]], axis=1)
    z = x @ basis
    every = np.arange(len(y))
    found = []
    for penalty in MOVED:
        fits = [_near(z[every != n], y[every != n], penalty) for n in every]
        told = np.array([z[n] @ fit for n, fit in zip(every, fits, strict=True)])
        found.append((float(np.mean(np.abs(told / y - 1.0))), penalty, told))
    _, penalty, told = min(found, key=lambda each: each[0])
    return basis @ _near(z, y, penalty), told


def _near(z: Floats, y: Floats, penalty: Penalty) -> Floats:
    """As `fit`, the first coefficient drawn to 1."""
    weak = np.sqrt(np.array([penalty[0], *[penalty[1]] * (z.shape[1] - 1)]) * len(y))
    rows = np.concatenate([z / y[:, None], np.diag(weak)])
    target = np.concatenate([np.ones(len(y)), weak * (np.arange(z.shape[1]) == 0)])
    return np.asarray(nnls(rows, target, maxiter=50 * len(rows))[0])


def folds(n: int) -> list[Bools]:
    """Which rows are held out in each fold; the first row, the dense model, is in none."""
    places = np.concatenate([[-1], np.arange(n - 1) % FOLDS])
    return [places == fold for fold in range(FOLDS)]


def farthest(
    x: Floats, known: Sequence[int], candidates: Sequence[int], count: int, weak: Floats
) -> list[int]:
    """`count` of the candidate rows with the largest variance of the fit, chosen in turn.

    Rows of `x` are relative to what they are predicted to be; the fit's variance there is
    x (X'X + W)⁻¹ x' with `weak` on the diagonal of W, updated after each choice (D-optimal
    augmentation; Fedorov 1972).
    """
    inverse = np.linalg.inv(x[list(known)].T @ x[list(known)] + np.diag(weak))
    left = np.array(candidates, int)
    rows = x[left]
    variance = np.sum(rows @ inverse * rows, axis=1)
    found = []
    for _ in range(min(count, len(left))):
        place = int(np.argmax(variance))
        found.append(int(left[place]))
        step = inverse @ rows[place]
        scale = 1.0 + rows[place] @ step
        inverse -= np.outer(step, step) / scale
        variance -= (rows @ step) ** 2 / scale
        variance[place] = -np.inf
    return found
