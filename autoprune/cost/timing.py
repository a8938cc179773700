"""How calls are timed: warm until steady, then in turns.

Nothing but the standard library is used: the same file also runs on a remote device.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Call = Callable[[], object]


class ClockedCall(ABC):
    """A call with a clock of its own, such as a GPU's events: it returns its milliseconds."""

    @abstractmethod
    def __call__(self) -> float:
        """Run once, wait for the end, and return the milliseconds that it took."""


BURST = 5  # timed calls of one model before the next has its turn
STEADY = 0.05  # warm when the medians of two windows differ by less
LONGEST_S = 10.0  # fewer repeats (a multiple of the burst) where they would take longer


def rounds_of(calls: Sequence[Call], warmup_s: float, repeats: int) -> list[list[list[float]]]:
    """Milliseconds by round, call and repeat, of calls that are warmed up first.

    Each call is warmed up for `warmup_s` seconds and on until two windows agree. Each round then
    gives every call a short burst (one that is not counted, then five that are), in alternating
    order, until each was timed `repeats` times or 10 s a call are over.
    """
    with _undisturbed():
        for call in calls:
            _warm(call, warmup_s)
        return _rounds(calls, repeats)


def _rounds(calls: Sequence[Call], repeats: int) -> list[list[list[float]]]:
    start = time.perf_counter()
    rounds: list[list[list[float]]] = []
    for turn in range(math.ceil(repeats / BURST)):
        burst = min(BURST, repeats - turn * BURST)
        order = range(len(calls)) if turn % 2 == 0 else range(len(calls) - 1, -1, -1)
        bursts: list[list[float]] = [[] for _ in calls]
        for place in order:
            if len(calls) > 1:
                calls[place]()
            bursts[place] = [_timed(calls[place]) for _ in range(burst)]
        rounds.append(bursts)
        if time.perf_counter() - start > LONGEST_S * len(calls):
            break
    return rounds


def _timed(call: Call) -> float:
    if isinstance(call, ClockedCall):
        return call()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _warm(call: Call, seconds: float) -> None:
    """Call until two windows of half of `seconds` agree; at most five times `seconds`."""
    start = time.perf_counter()
    before = math.inf
    while True:
        now = statistics.median(_window(call, seconds / 2))
        late = time.perf_counter() - start >= 5 * seconds
        if before != math.inf and (late or abs(now / before - 1.0) <= STEADY):
            return
        before = now


def _window(call: Call, seconds: float) -> list[float]:
    end = time.perf_counter() + seconds
    times = [_timed(call)]
    while time.perf_counter() < end:
        times.append(_timed(call))
    return times


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector; it is as before afterwards."""
    before = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
