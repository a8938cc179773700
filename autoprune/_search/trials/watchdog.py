"""Ends trials that hang: no report within the time-out, or still running long after the limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial

from autoprune._search.trials.searcher import BudgetedOptunaSearch

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

START_S = 300.0  # more for a worker process that starts first
GRACE_S = 10.0  # of `minutes`: then what runs is ended, at its next report before that
_LOG = logging.getLogger(__name__)


class Watchdog:
    """Watches the running trials of a search; `check` is called several times a second.

    A worker that hangs cannot be asked to stop: its process is killed, and Tune starts another one
    for the next trial.
    """

    def __init__(
        self, searcher: BudgetedOptunaSearch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._searcher, self._ledger, self._clock = searcher, searcher.ledger, clock
        self._since: dict[tuple[str, str], float] = {}  # by trial and status
        self._reasons: dict[str, str] = {}
        self._killed: dict[str, Any] = {}  # a trial's last worker that was killed

    def heard_of(self, trial_id: str) -> None:
        """A trial has reported: its time starts anew."""
        for status in (Trial.PENDING, Trial.RUNNING):
            self._since.pop((trial_id, status), None)

    def reason(self, trial_id: str) -> str | None:
        """Why this trial's worker was killed; None where it was not."""
        return self._reasons.get(trial_id)

    def check(self, controller: TuneController) -> None:
        """Kill the workers of trials that have taken too long."""
        now, limit = self._clock(), self._ledger.trial_timeout_s
        over = self._ledger.overtime_s
        for trial in list(controller.get_live_trials()):  # type: ignore[no-untyped-call]
            if trial.status not in (Trial.RUNNING, Trial.PENDING):
                self.heard_of(trial.trial_id)
                continue
            waited = now - self._since.setdefault((trial.trial_id, trial.status), now)
            if over > GRACE_S:
                self._searcher.cut(trial.trial_id)
                self._kill(controller, trial, "search.minutes is over")
            elif waited > limit + (START_S if trial.status == Trial.PENDING else 0.0):
                self._kill(controller, trial, timed_out(waited))

    def _kill(self, controller: Any, trial: Trial, reason: str) -> None:
        inner = getattr(controller, "_tune_controller", controller)  # schedulers get a wrapper
        actor = inner._trial_to_actor.get(trial)
        live = inner._actor_manager._live_actors_to_ray_actors_resources.get(actor)
        if live is None:  # its process is still to start: asked again at the next check
            return
        if self._killed.get(trial.trial_id) is live[0]:
            return  # Tune starts a trial again whose worker was killed while it started
        self._killed[trial.trial_id] = live[0]
        _LOG.warning("a worker was killed: %s", reason)
        self._reasons[trial.trial_id] = reason
        ray.kill(live[0])


def timed_out(seconds: float) -> str:
    """The reason of a trial whose worker did not report in time."""
    return (
        f"time-out: no report for {seconds:.0f} s, the worker was killed · a larger "
        "search.trial_timeout waits longer"
    )
