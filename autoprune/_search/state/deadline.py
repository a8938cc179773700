"""The time limit of a search."""

from __future__ import annotations

import time


class Deadline:
    """Counts the seconds of searching, all sessions together, against the limit on them.

    >>> deadline = Deadline(100.0, before_s=90.0)
    >>> deadline.is_over, deadline.comes_within(5.0), deadline.comes_within(15.0)
    (False, False, True)
    """

    def __init__(
        self, limit_s: float | None, *, before_s: float = 0.0, since: float | None = None
    ) -> None:
        """`before_s` is how long earlier sessions took; this one began at `since`, or now.

        `since` is of `time.monotonic`; without `limit_s` there is no limit.
        """
        self._limit_s, self._before_s = limit_s, before_s
        self._started = time.monotonic() if since is None else since

    @property
    def elapsed_s(self) -> float:
        """Seconds of searching so far."""
        return self._before_s + time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        """Seconds until the limit, below 0 after it; None without one."""
        return None if self._limit_s is None else self._limit_s - self.elapsed_s

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed."""
        return self.comes_within(0.0)

    def comes_within(self, seconds: float) -> bool:
        """Whether the limit will have passed so many seconds from now."""
        return self._limit_s is not None and self.elapsed_s + seconds > self._limit_s

    def overtime_s(self, *, times: float = 1.0) -> float:
        """Seconds since so many times the limit; below 0 before that, and without a limit."""
        return -1.0 if self._limit_s is None else self.elapsed_s - times * self._limit_s
