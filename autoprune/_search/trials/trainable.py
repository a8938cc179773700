"""The Ray Tune trainable: one actor trains many candidates and loads data and models once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune

from autoprune._search.state.failure import reason, release_memory
from autoprune._search.state.messages import REPORT, Report
from autoprune.candidate import Candidate

SPEC = "trial"  # the key of a Tune configuration that holds the spec


@dataclass(frozen=True, slots=True)
class Spec:
    """What a worker needs for one trial; from `scratch` it begins with random weights."""

    number: int
    candidate: Candidate
    seed: int
    scratch: bool = False


class Run(Protocol):
    """A trial's training, in steps (see `RecoveryTrial`)."""

    @property
    def finished(self) -> bool:
        """Whether all training is done."""

    def report(self, error: str | None = None) -> Report:
        """The state now."""

    def advance(self) -> None:
        """Train to the next milestone and evaluate."""

    def save(self, folder: str) -> None:
        """Write what `restore` needs."""

    def restore(self, folder: str) -> None:
        """Continue from a saved state."""


class Context(Protocol):
    """What an actor holds for all of its trials (see `WorkerContext`)."""

    delivery: Any

    def prepare(self) -> None:
        """Called once in each actor."""

    def start(self, spec: Spec) -> Run:
        """Begin a trial."""


class PruneTrial(tune.Trainable):
    """One actor; `reset_config` gives it the next candidate, without loading anything again.

    An exception in a trial becomes a report with the reason, so that the actor can go on.
    """

    def setup(  # type: ignore[override]  # `context` comes from tune.with_parameters
        self, config: dict[str, Any], context: Context
    ) -> None:
        """Called once an actor."""
        self._context = context
        context.prepare()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate; it is built at the first step."""
        self._spec: Spec = new_config[SPEC]
        self._trial: Run | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next milestone; the report is the result."""
        try:
            if self._trial is None:
                self._trial = self._context.start(self._spec)
            self._trial.advance()
            report = self._trial.report()
        except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
            report = self._failed(reason(error))
        done = report.finished or report.error is not None
        if done:
            self._trial = None
        return {REPORT: report, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save a paused trial's state."""
        if self._trial is not None:
            self._trial.save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # a folder
        """Continue a paused trial."""
        self._trial = self._context.start(self._spec)
        self._trial.restore(checkpoint)

    def _failed(self, why: str) -> Report:
        trial, self._trial = self._trial, None
        report = trial.report(why) if trial is not None else Report(error=why)
        del trial
        release_memory()
        return report
