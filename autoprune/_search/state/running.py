"""A trial between its start and its record."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune._search.state.failure import bounded
from autoprune._search.state.messages import Report
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.record import BASELINE, State, TrialRecord


@dataclass
class Running:
    """A trial that has a candidate and no record yet.

    `started` is of `time.monotonic`, `times` are seconds that were spent on choosing the candidate.
    """

    number: int
    candidate: Candidate
    predicted: Cost
    origin: str
    started: float
    times: Mapping[str, float] = field(default_factory=dict)
    last: Report = field(default_factory=Report)

    @property
    def is_counted(self) -> bool:
        """Whether it counts towards the limits of the search."""
        return not self.origin.startswith(BASELINE)

    def ended(self, seed: int, error: str | None = None) -> TrialRecord:
        """Its record, when it ends now: completed, stopped before its end, or failed.

        `error` is a reason that the last report does not know.
        """
        last = self.last
        error = bounded(error or last.error or "") or None
        state: State = "failed" if error else "complete" if last.finished else "stopped"
        return TrialRecord(
            number=self.number,
            candidate=self.candidate,
            state=state,
            seed=seed,
            epochs=last.epochs,
            metrics={} if error else _finite(last.metrics),
            history=tuple(_finite(entry) for entry in last.history),
            predicted=self.predicted,
            error=error,
            times={**last.times, **self.times, "wall_s": time.monotonic() - self.started},
            artifact=None if error else last.artifact,
            origin=self.origin,
            optimizer=last.optimizer,
        )


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The finite values: a failed trial may have NaN, which JSON cannot hold."""
    return {
        name: value
        for name, value in values.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
