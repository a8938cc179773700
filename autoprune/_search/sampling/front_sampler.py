"""A sampler of Optuna: moves around the front, chosen by expected hypervolume improvement.

It needs no score before training, only what a study holds: parameters, values and constraints of
its trials. Costs are known beforehand, so that only the metric is predicted: by a Bayesian ridge
regression on the parameters and the logarithms of the costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autoprune._search.plan import Plan
from autoprune._search.sampling.moves import Moves, random_values, some_changed
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.surrogate import (
    FAR,
    Array,
    Posterior,
    Regression,
    encode,
    expected_improvement,
    metric_first,
    reference_of,
    spread,
)
from autoprune.candidate import Candidate
from autoprune.pareto import non_dominated
from autoprune.space.settings import Value
from autoprune.training.rng import derive

ENOUGH = 6  # complete trials before the regression is used; random values until then
LATEST = 200  # trials that it learns from, besides the front
_POOL = 64  # candidates of which the most promising one is proposed
_ALLOCATED = 16  # the same where the allocator makes each, in tens of milliseconds
_DRAWS = 4  # for each candidate, at most: duplicates and failed moves do not count
_RANDOM = 0.25  # the part of the draws that is not near the front

Params = Mapping[str, Value]
Finals = Callable[[], Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class _Point:
    """Sampled values, and the costs that are objectives."""

    params: Params
    costs: Sequence[float]


class FrontSampler(BaseSampler):
    """Proposes the candidate that promises the front the largest growth of its hypervolume.

    The pool are candidates within the budget that were not tried: moves of members of the front
    (`Moves`; where the plan has variables of the allocator, changes of those), and some random
    ones. Running trials count with the median of their predicted metric. Of several metrics the
    first alone counts. A trial that breaks a constraint teaches the regression, and is no member of
    the front while there are others; so does one that was stopped at a rung. All state but the
    metrics of these is in the study; draws depend on the plan's seed and the trial's number.
    """

    def __init__(self, plan: Plan, finals: Finals = dict) -> None:
        """For studies with the objectives and the variables of this plan.

        `finals` returns the metrics of trials after their whole training, by number: what stopped
        ones would have had.
        """
        self._plan, self._finals = plan, finals
        self._parameters = plan.variables.parameters
        self._order = metric_first(plan.objectives)
        self._signs = np.array([plan.objectives[place].sign for place in self._order])
        self._moves = Moves(plan) if plan.allocated is None else None
        self._count = _POOL if plan.allocated is None else _ALLOCATED
        self._made: dict[tuple[Value, ...], Candidate] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the plan once there are enough trials, before that none."""
        trials = self._trials(study, TrialState.COMPLETE)
        return dict(trials[-1].distributions) if len(trials) >= ENOUGH else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The best of a pool; nothing where the pool is empty, or the regression fails."""
        if not search_space:
            return {}
        ended = self._trials(study, TrialState.COMPLETE)
        running = self._trials(study, TrialState.RUNNING)
        unfinished = self._trials(study, TrialState.PRUNED)  # over budget, or stopped at a rung
        seen = {self._candidate(it.params).key for it in (*ended, *running, *unfinished)}
        rng = np.random.default_rng(derive(self._plan.seed, "front", trial.number))
        front = self._front(ended)
        pool = self._pool(rng, [it.params for it in front], seen)
        learned = self._learned(front, ended, unfinished)
        now = [_Point(it.params, self._costs(self._candidate(it.params))) for it in running]
        gains = self._gains(pool, learned, self._values(front), now)
        if not gains:
            return {}
        best = pool[max(range(len(pool)), key=gains.__getitem__)].params
        return {name: value for name, value in best.items() if name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value."""
        drawn = RandomSampler(derive(self._plan.seed, "front", trial.number, param_name))
        return drawn.sample_independent(study, trial, param_name, param_distribution)

    def _trials(self, study: Study, state: TrialState) -> list[FrozenTrial]:
        """Those in a state that have all parameters of the plan, by number."""
        names = [parameter.name for parameter in self._parameters]
        found = study.get_trials(deepcopy=False, states=(state,))
        return [it for it in found if all(name in it.params for name in names)]

    def _front(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """By rising cost."""
        within = [it for it in trials if all(over <= 0.0 for over in it.constraints.values())]
        within = within or list(trials)
        rows = self._values(within)
        members = sorted(np.flatnonzero(non_dominated(rows)), key=lambda at: tuple(rows[at, 1:]))
        return [within[at] for at in members]

    def _learned(
        self,
        front: Sequence[FrozenTrial],
        ended: Sequence[FrozenTrial],
        unfinished: Sequence[FrozenTrial],
    ) -> list[tuple[_Point, float]]:
        """What the regression learns from, by number: points, and their metrics, minimized."""
        finals = self._finals()
        stopped = [it for it in unfinished if it.number in finals]
        known = sorted([*ended, *stopped], key=lambda it: it.number)
        latest = {it.number: it for it in (*front, *known[-LATEST:])}
        found = []
        for number in sorted(latest):
            trial = latest[number]
            if trial.state == TrialState.COMPLETE:
                metric, *costs = self._values([trial])[0].tolist()
            else:
                metric = float(self._signs[0]) * finals[number]
                costs = self._costs(self._candidate(trial.params))
            found.append((_Point(trial.params, costs), metric))
        return found

    def _values(self, trials: Sequence[FrozenTrial]) -> Array:
        """`(trials, 1 + costs)`: the metric, then the costs, all minimized."""
        values = np.array([it.values for it in trials], dtype=np.float64)
        found: Array = values[:, self._order] * self._signs
        return found

    def _pool(
        self, rng: np.random.Generator, parents: Sequence[Params], seen: set[str]
    ) -> list[_Point]:
        found: dict[str, _Point] = {}
        for params in self._draws(rng, parents):
            candidate = self._plan.variables.candidate(params)
            inside = project(candidate, self._plan)
            if inside is None or inside.key in seen or inside.key in found:
                continue
            values = params if inside == candidate else self._plan.variables.params(inside)
            found[inside.key] = _Point(values, self._costs(inside))
            if len(found) >= self._count:
                break
        return list(found.values())

    def _draws(self, rng: np.random.Generator, parents: Sequence[Params]) -> Iterator[Params]:
        moves = self._moves
        members = [moves.parent(self._candidate(it)) for it in parents] if moves else []
        for _ in range(_DRAWS * self._count):
            if rng.random() < _RANDOM:
                yield random_values(rng, self._parameters)
            elif moves is None:
                parent = parents[int(rng.integers(len(parents)))]
                yield some_changed(rng, self._parameters, parent)
            elif (move := moves.propose(rng, members)) is not None:
                yield self._plan.variables.params(move[1])

    def _gains(
        self,
        pool: Sequence[_Point],
        learned: Sequence[tuple[_Point, float]],
        rows: Array,
        running: Sequence[_Point],
    ) -> list[tuple[float, float]]:
        """Expected improvements, then negated medians to break ties; none where the fit fails."""
        reference = reference_of(self._plan, rows[:, 0])
        features = self._features([*(point for point, _ in learned), *pool, *running])
        targets = np.array([metric for _, metric in learned])
        posteriors = _posteriors(features, targets, reference[0])
        expected = [
            [posterior.median, *point.costs]
            for posterior, point in zip(posteriors[len(pool) :], running, strict=False)
        ]
        rows = np.array([*rows.tolist(), *expected])
        return [
            (expected_improvement(rows, reference, posterior, point.costs), -posterior.median)
            for posterior, point in zip(posteriors, pool, strict=False)
        ]

    def _features(self, points: Sequence[_Point]) -> Array:
        """`(n, features)`: each parameter, and the log of each cost with its square."""
        logs = np.log(np.array([it.costs for it in points])).reshape(len(points), -1)
        logs = np.clip((logs - logs.mean(0)) / spread(logs), -FAR, FAR)
        rows = [
            [x for p in self._parameters for x in encode(p, it.params[p.name])] for it in points
        ]
        return np.hstack([np.array(rows), logs, logs**2])

    def _costs(self, candidate: Candidate) -> list[float]:
        cost = self._plan.cost(candidate)
        return [cost.get(self._plan.objectives[place].name) for place in self._order[1:]]

    def _candidate(self, params: Params) -> Candidate:
        """Of a trial, which is asked for again and again."""
        key = tuple(params[parameter.name] for parameter in self._parameters)
        if key not in self._made:
            self._made[key] = self._plan.variables.candidate(params)
        return self._made[key]


def _posteriors(features: Array, targets: Array, worst: float) -> list[Posterior]:
    """Of the rows after those that have targets; none where the fit has failed."""
    known = len(targets)
    try:
        found = Regression(features[:known], targets.tolist(), worst)(features[known:])
    except (ValueError, np.linalg.LinAlgError):
        return []
    good = all(math.isfinite(it.log_excess) and math.isfinite(it.deviation) for it in found)
    return found if good else []
