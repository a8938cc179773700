"""How long a trial may take from one report to the next."""

from __future__ import annotations

from collections.abc import Iterable

from autoprune.record import TrialRecord

SLOWEST = 10.0  # times what the slowest trial took: then one hangs
LEAST_S = 120.0
FIRST_S = 3600.0  # before any trial has ended
_BUSY = ("build_s", "train_s", "evaluate_s")


class TrialTimeout:
    """The time-out of a trial: as given, or else learned from the slowest one so far."""

    def __init__(self, given_s: float | None, records: Iterable[TrialRecord] = ()) -> None:
        self._given_s, self._slowest_s = given_s, 0.0
        for record in records:
            self.note(record)

    def note(self, record: TrialRecord) -> None:
        """Learn from a trial that ended well: how long it was built, trained and evaluated."""
        if record.state in ("complete", "stopped"):
            busy_s = sum(record.times.get(name, 0.0) for name in _BUSY)
            self._slowest_s = max(self._slowest_s, busy_s)

    @property
    def seconds(self) -> float:
        """The longest time from one report of a trial to the next."""
        if self._given_s is not None:
            return self._given_s
        return max(LEAST_S, SLOWEST * self._slowest_s) if self._slowest_s else FIRST_S
