"""A surrogate of the trained metric, and the expected hypervolume improvement.

The surrogate is a Bayesian ridge regression (MacKay 1992; Tipping 2001) on standardized features:
the score right after repair and the log cost with their products, the summed sensitivities of
single groups, and the settings of schedule and recovery. It predicts the logarithm of the gap to
the best metric: the score is the logarithm of a divergence too, and errors get smaller where the
metric comes near the dense model's. It is fitted in milliseconds, gives its own uncertainty, and
regresses to the mean where there are few trials.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from sklearn.linear_model import BayesianRidge

from autoprune._search.plan import Plan
from autoprune.architecture import INT8
from autoprune.candidate import Candidate
from autoprune.cost_fields import is_cost
from autoprune.pareto import Objective
from autoprune.space.settings import Parameter, Value

Array = npt.NDArray[np.float64]

FAR = 3.0  # standard deviations beyond which the score and the cost are not extrapolated
_FLOOR = 0.05  # how far below the best metric the scale ends, over best to worst
_BEYOND = 0.2  # how far beyond the worst metric that counts trials still differ, likewise


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate with its score before training and its predicted `costs` > 0.

    `score` is the log of the divergence right after repair, `log_sensitivity` the log of the summed
    sensitivities of its groups; 0 where they were not measured.
    """

    candidate: Candidate
    score: float
    costs: tuple[float, ...]
    log_sensitivity: float = 0.0

    @property
    def prior(self) -> float:
        """The order of candidates of equal cost before any trial has ended; less is better."""
        return self.score + self.log_sensitivity


@dataclass(frozen=True, slots=True)
class Posterior:
    """The distribution of a metric, less is better: `floor` + exp(N(`log_excess`, `deviation`²)).

    >>> Posterior.certain(0.25).median
    0.25
    """

    floor: float
    log_excess: float
    deviation: float

    @staticmethod
    def certain(value: float) -> Posterior:
        """A value without uncertainty."""
        return Posterior(value - 1.0, 0.0, 0.0)

    @property
    def median(self) -> float:
        """The median."""
        return self.floor + math.exp(self.log_excess)

    def below(self, heights: npt.ArrayLike) -> Array:
        """`(n,)` expected improvements over each height: E[max(0, height - metric)].

        E[max(0, H - e^x)], H = h - floor, x ~ N(μ, σ²): HΦ(z) - exp(μ + σ²/2)Φ(z - σ) with
        z = (ln H - μ)/σ (the form of Black & Scholes 1973).
        """
        heights = np.asarray(heights, dtype=np.float64)
        if self.deviation <= 0.0:
            return np.maximum(heights - self.median, 0.0)
        room = np.maximum(heights - self.floor, 1e-300)
        z = (np.log(room) - self.log_excess) / self.deviation
        mean = math.exp(self.log_excess + 0.5 * self.deviation**2)
        result: Array = np.maximum(room * ndtr(z) - mean * ndtr(z - self.deviation), 0.0)
        return result


class Regression:
    """Predicts a metric (to be minimized) from rows of features."""

    def __init__(self, rows: Array, targets: Sequence[float], worst: float) -> None:
        """Fit on `(n, features)` rows of at least two trials; `targets` are their metrics.

        Metrics beyond `worst` do not count, and are clipped a little above it.
        """
        best = min(targets)
        span = worst - best if worst > best else max(targets) - best or 1.0
        self._floor = best - _FLOOR * span
        y = np.log(np.minimum(targets, best + (1.0 + _BEYOND) * span) - self._floor)
        self._level, self._scale = float(y.mean()), float(y.std()) or 1.0
        self._model = BayesianRidge()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not converged is still one
            self._model.fit(rows, (y - self._level) / self._scale)

    def __call__(self, rows: Array) -> list[Posterior]:
        """The posterior of each row; not finite where the fit has failed."""
        mean, deviation = self._model.predict(rows, return_std=True)
        return [
            Posterior(self._floor, float(m * self._scale + self._level), float(s * self._scale))
            for m, s in zip(mean, deviation, strict=True)
        ]


class Surrogate:
    """Predicts the metric (to be minimized) of candidates from those of trained ones."""

    def __init__(
        self, plan: Plan, scored: Sequence[ScoredCandidate], targets: Sequence[float], worst: float
    ) -> None:
        """Fit on at least two trials, as `Regression`."""
        self._plan = plan
        raw = _plain(scored)
        self._mean, self._spread = raw.mean(0), spread(raw)
        self._regression = Regression(self._features(scored), targets, worst)

    def __call__(self, scored: Sequence[ScoredCandidate]) -> list[Posterior]:
        """The posterior of each; not finite where the fit has failed."""
        return self._regression(self._features(scored))

    def _features(self, scored: Sequence[ScoredCandidate]) -> Array:
        z = np.clip((_plain(scored) - self._mean) / self._spread, -FAR, FAR)
        score = z[:, :1]
        recipes = [self._recipe_row(item.candidate) for item in scored]
        return np.hstack([z, score**2, score * z[:, 2:], np.array(recipes)])

    def _recipe_row(self, candidate: Candidate) -> list[float]:
        settings = self._plan.space.settings(candidate)
        rows = (encode(p, settings[p.name]) for p in self._plan.space.varied)
        in_int8 = float(candidate.architecture.precision == INT8)
        return [in_int8, *(value for row in rows for value in row)]


def encode(parameter: Parameter, value: Value) -> list[float]:
    """A setting as numbers around 0: one-hot choices, else its place in the range and the square.

    >>> encode(Parameter("lr", 0.01, 1.0, log=True), 0.1)
    [0.0, -0.5]
    >>> encode(Parameter("kind", choices=("linear", "cubic")), "cubic")
    [0.0, 1.0]
    """
    if parameter.choices:
        return [float(value == choice) for choice in parameter.choices]
    place = 2.0 * place_of(parameter, float(value)) - 1.0
    return [place, place * place - 0.5]


def place_of(parameter: Parameter, value: float) -> float:
    """Where a value lies between the parameter's ends, in [0, 1], on its own scale."""
    low, high = parameter.low, parameter.high
    if high <= low:
        return 0.5
    if parameter.log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def value_at(parameter: Parameter, place: float) -> Value:
    """The value at a place in [0, 1] between the parameter's ends, on its own scale.

    >>> value_at(Parameter("lr", 0.01, 1.0, log=True), 0.5)
    0.1
    """
    low, high = parameter.low, parameter.high
    found = low * (high / low) ** place if parameter.log else low + place * (high - low)
    return parameter.clip(found)


def metric_first(objectives: Sequence[Objective]) -> list[int]:
    """The places of the first metric and of the costs, which an expected improvement is of.

    >>> metric_first([Objective("macs"), Objective("accuracy", "maximize")])
    [1, 0]
    """
    costs = [place for place, objective in enumerate(objectives) if is_cost(objective.name)]
    metric = next((place for place in range(len(objectives)) if place not in costs), 0)
    return [metric, *costs]


def reference_of(plan: Plan, metrics: npt.ArrayLike) -> list[float]:
    """The worst point that counts, in the order of `metric_first`, everything minimized.

    `metrics` are the front's: once one of them meets the limits on the metric, their bound is the
    worst that counts.
    """
    order = metric_first(plan.objectives)
    found = [plan.objectives[place].sign * plan.reference[place] for place in order]
    metric, reached = plan.objectives[order[0]], np.asarray(metrics, dtype=np.float64)
    bound = plan.worst_metric(metric)
    if bound is not None and (reached <= metric.sign * bound).any():
        found[0] = min(found[0], metric.sign * bound)
    return found


def expected_improvement(
    front: npt.ArrayLike, reference: Sequence[float], posterior: Posterior, costs: Sequence[float]
) -> float:
    """The expected hypervolume improvement of a point; everything is minimized.

    `front` are rows of (metric, cost, ...) and `reference` is the worst that counts. The point's
    metric is uncertain, its `costs` are given: over every cell of the grid that the front's costs
    span, the front has one height, and the expected improvement over it is multiplied by the cell's
    size (the hypervolume form of expected improvement, Jones et al. 1998).

    >>> round(expected_improvement([[0.5, 0.5]], (1.0, 1.0), Posterior.certain(0.3), (0.2,)), 6)
    0.31
    """
    rows = np.asarray(front, dtype=np.float64).reshape(-1, 1 + len(costs))
    edges = []
    for place, cost in enumerate(costs, 1):
        end = float(reference[place])
        if cost >= end:
            return 0.0
        inner = np.unique(rows[:, place])
        edges.append(np.concatenate([[cost], inner[(inner > cost) & (inner < end)], [end]]))
    cells = list(itertools.product(*(zip(e, np.diff(e), strict=False) for e in edges)))
    corners = np.array([[low for low, _ in cell] for cell in cells]).reshape(len(cells), -1)
    widths = np.array([math.prod(width for _, width in cell) for cell in cells])
    below = (rows[None, :, 1:] <= corners[:, None, :]).all(2)
    heights = np.where(below, rows[None, :, 0], np.inf).min(1, initial=float(reference[0]))
    return float(posterior.below(heights) @ widths)


def _plain(scored: Sequence[ScoredCandidate]) -> Array:
    """Rows of (score, log_sensitivity, log cost, ...)."""
    rows = [[item.score, item.log_sensitivity, *np.log(item.costs)] for item in scored]
    return np.array(rows, dtype=np.float64)


def spread(rows: Array) -> Array:
    """The standard deviation of each column; 1 where a column does not vary."""
    deviations = rows.std(0)
    return np.where(deviations > 1e-9, deviations, 1.0)
