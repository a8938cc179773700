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
from functools import lru_cache

Call = Callable[[], object]


class ClockedCall(ABC):
    """A call with a clock of its own, such as a GPU's events: it returns its milliseconds."""

    @abstractmethod
    def __call__(self) -> float:
        """Run once, wait for the end, and return the milliseconds that it took."""


BURST = 5  # timed calls of one model before the next has its turn
STEADY = 0.05  # warm when the medians of two windows differ by less
LONGEST_S = 10.0  # fewer repeats (a multiple of the burst) where they would take longer
FURTHER_S = 4.0  # a call, from the start: no further rounds for the sake of precision
LEAST_ROUNDS = 6  # below, no interval of order statistics holds with 95 % confidence

Rounds = list[list[list[float]]]


def rounds_of(
    calls: Sequence[Call], warmup_s: float, repeats: int, precision: float | None = None
) -> Rounds:
    """Milliseconds by round, call and repeat, of calls that are warmed up first.

    Each call is warmed up for `warmup_s` seconds and on until two windows agree. Each round then
    gives every call a short burst (one that is not counted, then five that are), in alternating
    order, until each was timed `repeats` times or 10 s a call are over. With `precision`, further
    rounds follow until `is_precise`, or until 4 s a call are over.
    """
    with _undisturbed():
        for call in calls:
            _warm(call, warmup_s)
        return _rounds(calls, repeats, precision)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median of independent values of any distribution.

    The k-th smallest and the k-th largest value, k the largest for which a fair coin thrown n
    times shows fewer than k heads with a probability of at most 2.5 %. Fewer than six values have
    no such interval; theirs is from the smallest to the largest (94 % for five).

    >>> median_interval(range(1, 21))
    (6, 15)
    """
    ordered = sorted(values)
    rank = _rank(len(ordered))
    return ordered[rank - 1], ordered[-rank]


def half_width(values: Sequence[float]) -> float:
    """Half of the median's confidence interval, relative to the median."""
    low, high = median_interval(values)
    return (high - low) / 2.0 / statistics.median(values)


def ratios_of(rounds: Sequence[Sequence[Sequence[float]]], place: int) -> list[float]:
    """The time of one call relative to the first one's, round by round (medians of bursts)."""
    return [statistics.median(b[place]) / statistics.median(b[0]) for b in rounds]


def is_precise(rounds: Rounds, precision: float) -> bool:
    """Whether every median, and every ratio to the first call, is known to within `precision`."""
    if len(rounds) < LEAST_ROUNDS:
        return False
    return all(
        half_width([value for bursts in rounds for value in bursts[place]]) <= precision
        and half_width(ratios_of(rounds, place)) <= precision
        for place in range(len(rounds[0]))
    )


@lru_cache(maxsize=1024)
def _rank(n: int) -> int:
    below = term = rank = 1  # below / 2**n: the chance of fewer heads than the rank
    while rank < n and 40 * (below + term * (n - rank + 1) // rank) <= 2**n:
        term = term * (n - rank + 1) // rank
        below += term
        rank += 1
    return rank


def _rounds(calls: Sequence[Call], repeats: int, precision: float | None = None) -> Rounds:
    start = time.perf_counter()
    rounds: Rounds = []
    while True:
        left = repeats - BURST * len(rounds)
        if left <= 0 and (precision is None or is_precise(rounds, precision)):
            return rounds
        rounds.append(_round(calls, len(rounds), min(BURST, left) if left > 0 else BURST))
        longest = LONGEST_S if precision is None or left > BURST else FURTHER_S
        if time.perf_counter() - start > longest * len(calls):
            return rounds


def _round(calls: Sequence[Call], turn: int, burst: int) -> list[list[float]]:
    order = range(len(calls)) if turn % 2 == 0 else range(len(calls) - 1, -1, -1)
    bursts: list[list[float]] = [[] for _ in calls]
    for place in order:
        if len(calls) > 1:
            calls[place]()
        bursts[place] = [_timed(calls[place]) for _ in range(burst)]
    return bursts


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
