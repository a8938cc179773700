"""Progress of a running search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from autoprune.pareto import CostSource


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a search at one moment.

    `phase` is `prepare`, `search`, `verify` or `done`; `note` describes the current step.
    `trials` is the number of trials after which the search ends; `complete`, `stopped` and `failed`
    count towards it, `infeasible` and `running` do not. `front` has one mapping (trial number and
    objectives by name) a member, ordered by cost, its latencies by `source`; `hypervolume` is in
    the product of the objectives' units. `left_s` is an estimate of the seconds left, None while
    there is none.
    """

    phase: str
    note: str = ""
    trials: int = 0
    running: int = 0
    complete: int = 0
    stopped: int = 0
    infeasible: int = 0
    failed: int = 0
    epochs: float = 0.0
    front: tuple[Mapping[str, float], ...] = field(default_factory=tuple)
    source: CostSource = "predicted"
    hypervolume: float | None = None
    elapsed_s: float = 0.0
    left_s: float | None = None

    @property
    def done(self) -> int:
        """Trials that have ended and count."""
        return self.complete + self.stopped + self.failed


class Progress(Protocol):
    """Displays a search; called from the search's own thread."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state; must return fast."""


class NullProgress:
    """A display that shows nothing."""

    def update(self, snapshot: Snapshot) -> None:
        """Ignore the state."""
