"""The Ray Tune trainable: one actor trains many candidates, data and models are loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune

from autoprune._search.failure import reason, release_memory
from autoprune._search.ledger import REPORT, Report
from autoprune.candidate import Candidate

SPEC = "trial"  # the key of a Tune configuration under which a spec travels


@dataclass(frozen=True, slots=True)
class Spec:
    """What a worker needs to know of one trial."""

    number: int
    candidate: Candidate
    seed: int


class Run(Protocol):
    """A trial's training, which goes on piece by piece (`RecoveryRun` is one)."""

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
        """Go on from a saved state."""


class Bench(Protocol):
    """What an actor holds for all of its trials."""

    def prepare(self) -> None:
        """Called once in each actor."""

    def start(self, spec: Spec) -> Run:
        """Begin a trial."""


class PruneTrial(tune.Trainable):
    """One actor: `reset_config` gives it the next candidate, what it has loaded stays.

    Whatever goes wrong in a trial becomes a report with the reason, so that the actor lives on.
    """

    def setup(  # type: ignore[override]  # `bench` comes from tune.with_parameters
        self, config: dict[str, Any], bench: Bench
    ) -> None:
        """Called once an actor."""
        self._bench = bench
        bench.prepare()
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
                self._trial = self._bench.start(self._spec)
            self._trial.advance()
            report = self._trial.report()
        except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
            report = self._failed(reason(error))
        done = report.finished or report.error is not None
        if done:
            self._trial = None
        return {REPORT: report, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep a paused trial's state."""
        if self._trial is not None:
            self._trial.save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # a folder
        """Go on with a paused trial."""
        self._trial = self._bench.start(self._spec)
        self._trial.restore(checkpoint)

    def _failed(self, why: str) -> Report:
        trial, self._trial = self._trial, None
        report = trial.report(why) if trial is not None else Report(error=why)
        del trial
        release_memory()
        return report
