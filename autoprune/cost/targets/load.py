"""How much of this machine other processes use while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: all but idle and waiting


class OthersLoad:
    """A stopwatch for the share of our cores' time that other processes take.

    >>> load = OthersLoad()
    >>> load.share() is None or 0.0 <= load.share() <= 1.0
    True
    """

    def __init__(self) -> None:
        self._before = _busy_s()
        self._own = time.process_time()
        self._since = time.monotonic()

    def share(self) -> float | None:
        """From 0 to 1, since this was made; None where the system does not tell."""
        after = _busy_s()
        if self._before is None or after is None:
            return None
        used = after[0] - self._before[0] - (time.process_time() - self._own)
        whole = after[1] * (time.monotonic() - self._since)
        return min(1.0, max(0.0, used / whole)) if whole > 0.0 else 0.0


def _busy_s() -> tuple[float, int] | None:
    """(seconds that our cores were busy, how many those are), from the kernel's counters."""
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="utf-8").splitlines()]
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = [[int(value) for value in row[1:]] for row in lines if row and row[0] in ours]
        return sum(row[i] for row in ticks for i in _BUSY) / os.sysconf("SC_CLK_TCK"), len(ticks)
    except (OSError, AttributeError, ValueError, IndexError):
        return None
