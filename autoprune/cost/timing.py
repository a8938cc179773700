"""How calls are timed: warm until steady, then in turns.

Nothing but the standard library of Python 3.8 is used: the same file also runs on remote devices.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

Call: TypeAlias = "Callable[[], object]"
Rounds: TypeAlias = "list[list[list[float]]]"


class ClockedCall(ABC):
    """A call with a clock of its own, such as a GPU's events: it returns its milliseconds."""

    @abstractmethod
    def __call__(self) -> float:
        """Run once, wait for the end, and return the milliseconds that it took."""


BURST = 3  # timed calls of one model before the next has its turn
STEADY = 0.05  # warm when the medians of two windows differ by less
LONGEST_S = 10.0  # fewer repeats (a multiple of the burst) where they would take longer
FURTHER_S = 4.0  # a call, from the start: no further rounds for the sake of precision
LEAST_ROUNDS = 6  # below, no interval of order statistics holds with 95 % confidence
TRIM = 0.2  # of the rounds' ratios at either end do not count: something came between
STOLEN = 0.05  # of its time: a stretch of rounds that lost more is measured again
STRETCH_S = 0.2  # rounds are judged in stretches of this length, since the kernel counts in 10 ms
AGAIN_S = 0.5  # a call: no more is thrown away when this much was


def rounds_of(
    calls: Sequence[Call],
    warmup_s: float,
    repeats: int,
    precision: float | None = None,
    stolen_s: Callable[[], float] = float,
) -> Rounds:
    """Milliseconds by round, call and repeat, of calls that are warmed up first.

    Each call is warmed up for `warmup_s` seconds and on until two windows agree. Each round then
    gives every call a short burst (one that is not counted, then three that are), in alternating
    order, until each was timed `repeats` times or 10 s a call are over. With `precision`, further
    rounds follow until `is_precise`, or until 4 s a call are over.

    `stolen_s` reads a clock of the seconds that the machine under this one took from it. Rounds in
    which that was more than 5 % of the time are measured again, while there is time.
    """
    with _undisturbed():
        for call in calls:
            _warm(call, warmup_s)
        return _rounds(calls, repeats, precision, stolen_s)


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


def half_width(interval: tuple[float, float]) -> float:
    """Half of an interval, relative to its middle."""
    low, high = interval
    return (high - low) / (high + low)


def ratios_of(rounds: Sequence[Sequence[Sequence[float]]], place: int) -> list[float]:
    """The time of one call relative to the first one's, round by round (medians of bursts)."""
    return [statistics.median(b[place]) / statistics.median(b[0]) for b in rounds]


def mean_ratio(ratios: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The geometric mean of ratios without the fifth at either end, and its 95 % interval.

    That of a trimmed mean (Tukey & McLaughlin 1963), from the deviations of the logarithms with
    those that were trimmed put in at the cut. Fewer than six have none; theirs is their range.

    >>> mean_ratio([0.01, 0.5, 0.5, 0.5, 2.0])
    (0.5, (0.01, 2.0))
    """
    logs = sorted(map(math.log, ratios))
    cut = int(TRIM * len(logs))
    inner = logs[cut : len(logs) - cut]
    middle = statistics.fmean(inner)
    if len(logs) < LEAST_ROUNDS:
        return math.exp(middle), (min(ratios), max(ratios))
    deviation = statistics.stdev([inner[0]] * cut + inner + [inner[-1]] * cut)
    share = len(inner) / len(logs)
    half = _student(len(inner) - 1) * deviation / (share * math.sqrt(len(logs)))
    return math.exp(middle), (math.exp(middle - half), math.exp(middle + half))


def is_precise(rounds: Rounds, precision: float) -> bool:
    """Whether every median, and every ratio to the first call, is known to within `precision`."""
    if len(rounds) < LEAST_ROUNDS:
        return False
    return all(
        half_width(median_interval([value for bursts in rounds for value in bursts[place]]))
        <= precision
        and half_width(mean_ratio(ratios_of(rounds, place))[1]) <= precision
        for place in range(len(rounds[0]))
    )


def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    By the expansion around the normal distribution's (Abramowitz & Stegun 1964, 26.7.5).
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


@lru_cache(maxsize=1024)
def _rank(n: int) -> int:
    below = term = rank = 1  # below / 2**n: the chance of fewer heads than the rank
    while rank < n and 40 * (below + term * (n - rank + 1) // rank) <= 2**n:
        term = term * (n - rank + 1) // rank
        below += term
        rank += 1
    return rank


def _rounds(
    calls: Sequence[Call],
    repeats: int,
    precision: float | None = None,
    stolen_s: Callable[[], float] = float,
) -> Rounds:
    start = time.perf_counter()
    stretch = _Stretch(start, stolen_s, AGAIN_S * len(calls))
    rounds: Rounds = []
    while True:
        left = repeats - BURST * len(rounds)
        rounds.append(_round(calls, len(rounds), min(BURST, left) if left > 0 else BURST))
        now = time.perf_counter()
        longest = LONGEST_S if precision is None or left > BURST else FURTHER_S
        if now - start > longest * len(calls):
            return rounds
        enough = left <= BURST and (precision is None or _is_known(rounds, precision))
        if enough or now - stretch.since >= STRETCH_S:
            thrown = stretch.end(rounds, now)
            if enough and not thrown:
                return rounds


def _is_known(rounds: Rounds, precision: float) -> bool:
    """`is_precise`, asked at every twentieth of the rounds so far: it takes longer than those."""
    return len(rounds) % max(1, len(rounds) // 20) == 0 and is_precise(rounds, precision)


class _Stretch:
    """The rounds since the last judgement of what was stolen from them."""

    def __init__(self, since: float, stolen_s: Callable[[], float], patience_s: float) -> None:
        self.since = since
        self._clock, self._patience_s = stolen_s, patience_s
        self._stolen, self._first = stolen_s(), 0

    def end(self, rounds: Rounds, now: float) -> bool:
        """Begin the next one, and throw this one away where too much was stolen; whether it was."""
        seconds, stolen = now - self.since, self._clock()
        lost = round(stolen - self._stolen, 3)  # the kernel counts in hundredths
        thrown = lost > STOLEN * max(seconds, STRETCH_S) and self._patience_s > 0.0
        if thrown:
            self._patience_s -= seconds
            del rounds[self._first :]
        self.since, self._stolen, self._first = now, stolen, len(rounds)
        return thrown


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
