"""Failures in a row for one reason: the next trial would fail, too."""

from __future__ import annotations

import re

from autoprune.record import TrialRecord

_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")


class EqualFailures:
    """Counts the last trials of this session that failed for reasons alike but for their numbers.

    What ran when the last one failed does not count: a lost node takes several with it.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is how many are too many; 0 is without end."""
        self._limit = limit
        self._alike: list[str] = []  # the first lines of their reasons
        self._failed_at = 0.0

    def note(self, record: TrialRecord, *, started: float, ended: float) -> None:
        """Take a trial that ended; the times are of one clock."""
        if record.state != "failed":
            self._alike.clear()
            return
        if self._alike and started < self._failed_at:
            return
        self._failed_at = ended
        first = (record.error or "no reason known").splitlines()[0]
        if self._alike and _NUMBER.sub("", self._alike[-1]) != _NUMBER.sub("", first):
            self._alike.clear()
        self._alike.append(first)

    @property
    def reason(self) -> str | None:
        """The reason of the last failure once there are too many; None before."""
        return self._alike[-1] if self._limit and len(self._alike) >= self._limit else None
