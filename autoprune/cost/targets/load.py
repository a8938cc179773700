"""The load by other processes, and steal time, during a measurement.

Uses only the standard library of Python 3.8: the same file also runs on remote devices.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq: all but idle, waiting and steal
_STEAL = 7  # steal time: the host ran something else


class ExternalLoad:
    """The share of the cores' time that other processes, or the host, take.

    >>> load = ExternalLoad()
    >>> load.share() is None or 0.0 <= load.share() <= 1.0
    True
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._before = _counted(stat)
        self._own = time.process_time()
        self._since = time.monotonic()

    def share(self) -> float | None:
        """From 0 to 1, since this was made; None where the system does not report it.

        Steal time counts in full: some kernels include it in the process's own time as well.
        """
        after = _counted(self._stat)
        if self._before is None or after is None:
            return None
        busy, steal = (after[n] - self._before[n] for n in range(2))
        used = max(0.0, busy - (time.process_time() - self._own)) + steal
        whole = after[2] * (time.monotonic() - self._since)
        return min(1.0, max(0.0, used / whole)) if whole > 0.0 else 0.0


def steal_s(stat: Path = STAT) -> float:
    """Steal time of our cores since the start, in seconds; 0 if unknown."""
    counted = _counted(stat)
    return counted[1] if counted else 0.0


def _counted(stat: Path) -> tuple[float, float, int] | None:
    """Busy seconds and steal time of our cores since the start, and their number."""
    try:
        lines = [line.split() for line in stat.read_text(encoding="utf-8").splitlines()]
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = [[int(value) for value in row[1:]] for row in lines if row and row[0] in ours]
        tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        busy = sum(row[i] for row in ticks for i in _BUSY) * tick_s
        return busy, sum(row[_STEAL] for row in ticks) * tick_s, len(ticks)
    except (OSError, AttributeError, ValueError, IndexError):
        return None
