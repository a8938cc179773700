"""SIGTERM and SIGHUP: running trials get a moment to finish, then the search ends as by Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_S = 8.0  # containers are killed 10 s after SIGTERM
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal; `signum` says by which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupts:
    """Whether a signal has asked the search to end, and how long ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._signum: int | None = None
        self._clock, self._since = clock, 0.0

    @property
    def asked(self) -> bool:
        """Whether the search was asked to end."""
        return self._signum is not None

    def check(self, *, idle: bool) -> None:
        """Raise Terminated once nothing runs any more (`idle`) or the grace time is over."""
        if self._signum is not None and (idle or self._clock() - self._since > GRACE_S):
            raise Terminated(self._signum)

    def ask(self, signum: int, _: FrameType | None = None) -> None:
        """Note the signal; a second one raises Terminated at once."""
        if self._signum is not None:
            raise Terminated(signum)
        self._signum, self._since = signum, self._clock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take these signals inside; only the main thread can. The former handlers return."""
        with handlers_kept():
            if _is_main():
                for which in SIGNALS:
                    signal.signal(which, self.ask)
            yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """The handlers of these signals at the end are those of the beginning: Ray sets its own."""
    before = {which: signal.getsignal(which) for which in SIGNALS}
    try:
        yield
    finally:
        for which, handler in before.items() if _is_main() else ():
            if handler is not None:  # None: it was not set from Python, and cannot be from here
                signal.signal(which, handler)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
