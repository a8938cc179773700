"""Rungs for several objectives: asynchronous successive halving by rank and crowding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from autoprune._search.plan import Plan
from autoprune._search.state.failure import LONGEST
from autoprune._search.state.messages import REPORT
from autoprune._search.trials.evaluations import rung_at
from autoprune._search.trials.interrupts import Interrupts
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune._search.trials.watchdog import Watchdog
from autoprune.budget import Cost
from autoprune.cost_fields import is_cost
from autoprune.pareto import Objective, crowding, non_dominated_rank
from autoprune.record import TrialRecord, baseline_of

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

ETA = 2
RANGES = 4
_LATER = 0.02  # of a training: as rounding to whole steps may be
_CREATION = "error raised in its creation task"  # Ray's words; the error itself is the last line
_ERRORS = "autoprune.errors."


class Rungs:
    """Decides which trials continue at each rung; all values are minimized.

    A point's last value is its cost. At a rung the points are ordered by non-dominated rank, then
    by crowding distance (sparse first), then by number; the first 1 / `eta` of them (rounded up)
    may continue, and so may the best in the first objective of each cost range: [low, high] in
    `ranges` equal parts.

    >>> rungs = Rungs(low=0.0, high=1.0, ranges=1)
    >>> for number, point in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.4), (0.4, 0.7)]):
    ...     rungs.report(0, number, point)
    >>> [rungs.may_go_on(0, number) for number in range(4)]
    [True, False, True, False]
    """

    def __init__(self, low: float, high: float, *, ranges: int = RANGES, eta: int = ETA) -> None:
        """Start without points; `low` and `high` are the cheapest and dearest cost to expect."""
        self._low, self._span = low, max(high - low, 1e-12)
        self._ranges, self._eta = ranges, eta
        self._points: dict[int, dict[int, tuple[float, ...]]] = {}

    def report(self, rung: int, number: int, point: Sequence[float]) -> None:
        """Take a trial's point at a rung."""
        self._points.setdefault(rung, {})[number] = tuple(float(value) for value in point)

    def may_go_on(self, rung: int, number: int) -> bool:
        """Whether a trial is among the best at this rung, or the best in its cost range."""
        points = self._points[rung]
        places = self._order(points)
        if places.index(number) < math.ceil(len(places) / self._eta):
            return True
        peers = [n for n in points if self._range(points[n]) == self._range(points[number])]
        return min(peers, key=lambda n: (points[n][0], n)) == number

    def _order(self, points: dict[int, tuple[float, ...]]) -> list[int]:
        numbers = sorted(points)
        rows = np.array([points[number] for number in numbers])
        ranks = non_dominated_rank(rows)
        distance = np.empty(len(rows))
        for rank in np.unique(ranks):
            distance[ranks == rank] = crowding(rows[ranks == rank])
        return [numbers[i] for i in np.lexsort((np.array(numbers), -distance, ranks))]

    def _range(self, point: tuple[float, ...]) -> int:
        place = int((point[-1] - self._low) / self._span * self._ranges)
        return min(max(place, 0), self._ranges - 1)


class RungScheduler(FIFOScheduler):
    """Pauses a trial that is not among the best at its rung, and resumes it when it becomes so.

    Trials are compared by their objectives, the cost as predicted, at equal training since the last
    removal (see `evaluations`). What is paused when nothing else is left to do is stopped; once the
    time limit has passed, every trial is stopped at its next evaluation.
    """

    def __init__(
        self, plan: Plan, searcher: BudgetedOptunaSearch, interrupts: Interrupts | None = None
    ) -> None:
        """The rungs of the plan; `interrupts` say whether the search was asked to end."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan, self._searcher, self._ledger = plan, searcher, searcher.ledger
        ends = [objective.sign * objective_end(plan, objective) for objective in plan.objectives]
        dear = plan.objectives[-1].sign * plan.reference[-1]
        dear = min(dear, plan.limit(plan.objectives[-1].name))
        self._rungs = Rungs(min(ends[-1], dear), dear)
        for record in self._ledger.records.values():  # of earlier sessions
            self._report_again(record)
        self._paused: dict[str, tuple[Trial, int]] = {}
        self._watchdog = Watchdog(searcher)
        self._interrupts = interrupts or Interrupts()

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Continue, or pause at a rung; stop once it is too late."""
        report = result[REPORT]
        self._watchdog.heard_of(trial.trial_id)
        if report.error or report.finished or self._interrupts.asked:
            return str(TrialScheduler.CONTINUE)
        if self._ledger.late:
            return str(TrialScheduler.STOP)
        number = self._searcher.number(trial.trial_id)
        running = self._ledger.running[number]
        rung = rung_at(self._plan.milestones, running.candidate, report.epochs)
        if rung is None:
            return str(TrialScheduler.CONTINUE)
        self._rungs.report(rung, number, self._point(report.metrics, running.predicted))
        if self._rungs.may_go_on(rung, number) or baseline_of(running.origin):
            return str(TrialScheduler.CONTINUE)  # baselines are compared at their end
        self._searcher.on_trial_result(
            trial.trial_id, result
        )  # Tune does not report paused trials to it
        self._paused[trial.trial_id] = (trial, rung)
        return str(TrialScheduler.PAUSE)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """A paused trial that is now among the best, otherwise the next new one.

        Tune asks several times a second, also while nothing can start.
        """
        self._watchdog.check(tune_controller)
        if self._interrupts.asked:
            self._ledger.close()
            self._interrupts.check(idle=self._searcher.is_idle)
            return None
        for trial_id, (trial, _) in self._paused.items():
            if trial.status == Trial.PAUSED:
                self._searcher.set_waiting(trial_id, True)
        if self._searcher.has_room:
            for trial_id, (trial, rung) in list(self._paused.items()):
                number = self._searcher.number(trial_id)
                if trial.status == Trial.PAUSED and self._rungs.may_go_on(rung, number):
                    del self._paused[trial_id]
                    self._searcher.set_waiting(trial_id, False)
                    return trial
        if self._paused and self._searcher.is_idle and not self._ledger.may_start():
            for trial, _ in list(self._paused.values()):
                tune_controller.stop_trial(trial)  # type: ignore[no-untyped-call]
        return super().choose_trial_to_run(tune_controller)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Keep the reason from the trial's error file."""
        self._paused.pop(trial.trial_id, None)
        reason = self._watchdog.reason(trial.trial_id) or error_of(trial)
        self._searcher.note_error(trial.trial_id, reason)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """A paused trial was stopped for good."""
        self._paused.pop(trial.trial_id, None)

    def _report_again(self, record: TrialRecord) -> None:
        """The points that a trial of an earlier session, or run, reported at the rungs."""
        milestones, made = self._plan.milestones, record.candidate
        later = _LATER * milestones[-1] if record.is_reused else math.inf
        for entry in record.history:
            known = all(is_cost(o.name) or o.name in entry for o in self._plan.objectives)
            rung = rung_at(milestones, made, entry.get("epoch", 0.0), later=later)
            if record.predicted is not None and known and rung is not None:
                point = self._point(entry, record.predicted)
                self._rungs.report(rung, record.number, point)

    def _point(self, metrics: Mapping[str, float], cost: Cost) -> list[float]:
        values = [
            cost.get(o.name) if is_cost(o.name) else metrics[o.name] for o in self._plan.objectives
        ]
        return [o.sign * v for o, v in zip(self._plan.objectives, values, strict=True)]


def objective_end(plan: Plan, objective: Objective) -> float:
    """The best that an objective can be in this space: the smallest model's cost, or 0."""
    return plan.smallest().get(objective.name) if is_cost(objective.name) else 0.0


def error_of(trial: Trial) -> str:
    """Why Tune gave up a trial: one line, then the error file."""
    try:
        with Path(trial.error_file).open(encoding="utf-8", errors="replace") as file:
            text = file.read(LONGEST)
    except (OSError, TypeError):
        return "the worker process died"
    lines = [line for line in text.rstrip().splitlines() if not line.startswith("Failure #")]
    low = text.lower()
    if "out of memory" in low or "outofmemory" in low:
        first = "out of memory: the worker process was killed"
    elif _CREATION in low:
        first = f"the worker could not start: {lines[-1].strip().removeprefix(_ERRORS)}"
    elif "actor" in low and "died" in low:
        first = "the worker process died"
    else:
        first = next((line.strip() for line in lines if line.strip()), "the worker was lost")
    return "\n".join([first, *lines]).rstrip()
