"""How fast trials end, and how long the rest of a search takes at that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from autoprune._search.plan import Limits
from autoprune.record import TrialRecord


class Pace:
    """Follows the ends of this session's trials."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def note(self) -> None:
        """A trial has ended now."""
        self._ends.append(time.monotonic())

    def left_s(
        self, limits: Limits, *, done: int, epochs: float, deadline_s: float | None
    ) -> float | None:
        """Seconds until the first of the limits, after so many trials and epochs; at least 0.

        `deadline_s` is how far away the limit on time is, if there is one. None where nothing is
        known: there is no pace before three trials have ended, since the first one also waited
        for the workers to start, and the time to the next one alone may be that of a short one.
        """
        left = [] if deadline_s is None else [deadline_s]
        if len(self._ends) > 2:
            left.extend(self._until(limits, done, epochs))
        return max(0.0, min(left)) if left else None

    def _until(self, limits: Limits, done: int, epochs: float) -> Iterator[float]:
        pace = (time.monotonic() - self._ends[0]) / (len(self._ends) - 1)
        yield (limits.trials - done) * pace
        if limits.total_epochs is not None and epochs > 0:
            usual = epochs / max(1, done)
            yield (limits.total_epochs - epochs) / usual * pace


def usual_trial_s(records: Iterable[TrialRecord]) -> float:
    """The median length of a complete trial that was trained; 0 without any."""
    trained = (record for record in records if not record.is_converted)
    walls = [it.times.get("wall_s", 0.0) for it in trained if it.state == "complete"]
    return sorted(walls)[len(walls) // 2] if walls else 0.0


def total_trial_s(records: Iterable[TrialRecord]) -> float:
    """How long all trials took together."""
    return sum(record.times.get("wall_s", 0.0) for record in records)
