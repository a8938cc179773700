"""Whose worker is killed, and that a trial which was started again does not escape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from autoprune._search.trials import watchdog
from autoprune._search.trials.watchdog import GRACE_S, Watchdog


class Controller:
    """One live trial whose actor can be exchanged."""

    def __init__(self) -> None:
        self.trial = SimpleNamespace(trial_id="7", status=Trial.RUNNING)
        self._trial_to_actor = _Once(self.trial, "actor")
        self._actor_manager = SimpleNamespace(_live_actors_to_ray_actors_resources={})

    def get_live_trials(self) -> list[Any]:
        return [self.trial]

    def start(self, process: object) -> None:
        self._actor_manager._live_actors_to_ray_actors_resources["actor"] = (process, None)


class _Once:
    """A mapping of one trial, which has no hash."""

    def __init__(self, trial: object, actor: str) -> None:
        self._trial, self._actor = trial, actor

    def get(self, trial: object) -> str | None:
        return self._actor if trial is self._trial else None


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    monkeypatch.setattr(watchdog.ray, "kill", found.append)
    return found


def made(over: float) -> Watchdog:
    ledger = SimpleNamespace(trial_timeout_s=60.0, overtime_s=over)
    return Watchdog(SimpleNamespace(ledger=ledger, cut=lambda trial_id: None), lambda: 0.0)  # type: ignore[arg-type]


def test_a_worker_is_killed_once(killed: list[object]) -> None:
    dog, controller, process = made(GRACE_S + 1.0), Controller(), object()
    dog.check(controller)  # its process is still to start
    assert killed == []
    controller.start(process)
    dog.check(controller)
    dog.check(controller)
    assert killed == [process]
    assert dog.reason("7") == "search.minutes is over"


def test_a_trial_that_tune_started_again_is_ended_too(killed: list[object]) -> None:
    dog, controller = made(GRACE_S + 1.0), Controller()
    processes = [object(), object()]
    for process in processes:
        controller.start(process)
        dog.check(controller)
    assert killed == processes


def test_nothing_is_killed_within_the_limits(killed: list[object]) -> None:
    dog, controller = made(0.0), Controller()
    controller.start(object())
    dog.check(controller)
    assert killed == []
    assert dog.reason("7") is None
