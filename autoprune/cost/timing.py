"""How calls are timed: warm until steady, then in turns.

Nothing but the standard library of Python 3.8 is used: the same file also runs on remote devices.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

Call: TypeAlias = "Callable[[], object]"


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
YARDSTICK = range(2500)  # summed around every timed call: about 40 microseconds on a server
OUTSIDE = 0.05  # of the times at either end, and of the slowest paces, are taken as the next ones


@dataclass
class Rounds:
    """What was timed: `ms[round][turn]` is a burst of calls, `paces` the seconds of a yardstick.

    The first `turns` of a round are the first call's, which the others are compared with; then
    every other call has one. The yardstick is a fixed piece of arithmetic, run between the calls.
    It tells how fast the processor was at that moment: a neighbour on the same core, or a lower
    clock, slows both.
    """

    ms: list[list[list[float]]] = field(default_factory=list)
    paces: list[list[float]] = field(default_factory=list)
    turns: int = 1

    def __len__(self) -> int:
        return len(self.ms)

    def drop(self, first: int) -> None:
        """Forget the rounds from that one on."""
        del self.ms[first:], self.paces[first:]

    def times(self) -> list[list[float]]:
        """By call, the milliseconds of all its turns, in order."""
        return [
            [value for bursts in self.ms for place in places for value in bursts[place]]
            for places in self._places()
        ]

    def ratios(self) -> list[list[float]]:
        """By call, its times relative to the first one's, round by round and at equal pace.

        From the medians of bursts; of the first call, the median of its turns' in the round. The
        logarithm of a time rises with that of the pace by a slope that all calls share (analysis of
        covariance, Fisher 1932), between 0 and 1. Fewer than six rounds are too few for a slope.
        """
        times = [[math.log(statistics.median(burst)) for burst in bursts] for bursts in self.ms]
        paces = [[math.log(pace) for pace in each] for each in self.paces]
        if len(times) >= LEAST_ROUNDS and len(times[0]) > 1:
            cap = _quantile([pace for each in paces for pace in each], 1.0 - OUTSIDE)
            paces = [[min(pace, cap) for pace in each] for each in paces]
            slope = _shared_slope(list(zip(*paces)), list(zip(*times)))
            times = [
                [value - slope * pace for value, pace in zip(*pair)] for pair in zip(times, paces)
            ]
        first, *rest = self._places()
        levels = [statistics.median(each[place] for place in first) for each in times]
        others = [[each[n] - level for each, level in zip(times, levels)] for (n,) in rest]
        return [[1.0] * len(times), *([math.exp(log) for log in logs] for logs in others)]

    def _places(self) -> list[range]:
        """By call, which turns of a round are its own."""
        rest = range(self.turns, len(self.ms[0]))
        return [range(self.turns), *(range(place, place + 1) for place in rest)]


def rounds_of(
    calls: Sequence[Call],
    warmup_s: float,
    repeats: int,
    precision: float | None = None,
    stolen_s: Callable[[], float] = float,
) -> Rounds:
    """Milliseconds by round, call and repeat, of calls that are warmed up first.

    Each call is warmed up for `warmup_s` seconds and on until two windows agree. Each round then
    gives every call a short burst (one that is not counted, then three that are, with a yardstick
    around each, see `Rounds`), in an order drawn anew, until each was timed `repeats` times or 10 s
    a call are over. The first call, which all others are compared with, has as many turns a round
    as is best for that: the square root of their number (Dunnett 1955). With `precision`, further
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
    medians = (median_interval(times) for times in rounds.times())
    if any(half_width(interval) > precision for interval in medians):
        return False
    return all(half_width(mean_ratio(each)[1]) <= precision for each in rounds.ratios())


def _shared_slope(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    """The slope of y over x within the rows, 0 to 1; the outermost y of each row are drawn in."""
    above = below = 0.0
    for xs, ys in zip(x, y):
        low, high = _quantile(ys, OUTSIDE), _quantile(ys, 1.0 - OUTSIDE)
        inner = [min(max(value, low), high) for value in ys]
        middle_x, middle_y = statistics.fmean(xs), statistics.fmean(inner)
        above += sum((a - middle_x) * (b - middle_y) for a, b in zip(xs, inner))
        below += sum((a - middle_x) ** 2 for a in xs)
    return min(max(above / below, 0.0), 1.0) if below > 0.0 else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    """The value at that share of the way up."""
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


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
    rounds = Rounds(turns=max(1, round(math.sqrt(len(calls) - 1))))
    turns = [*[calls[0]] * rounds.turns, *calls[1:]]
    chance = random.Random(0)
    while True:
        left = repeats - BURST * len(rounds)
        order = chance.sample(range(len(turns)), len(turns))
        _round(turns, order, rounds, min(BURST, left) if left > 0 else BURST)
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
            rounds.drop(self._first)
        self.since, self._stolen, self._first = now, stolen, len(rounds)
        return thrown


def _round(turns: Sequence[Call], order: Sequence[int], rounds: Rounds, burst: int) -> None:
    """Add a round: a burst each turn, in that order, and the yardstick around each timed call."""
    bursts: list[list[float]] = [[] for _ in turns]
    paces = [0.0] * len(turns)
    for place in order:
        if len(turns) > 1:
            turns[place]()
        before = _yardstick()
        for _ in range(burst):
            bursts[place].append(_timed(turns[place]))
            after = _yardstick()
            paces[place] += (before + after) / 2 / burst
            before = after
    rounds.ms.append(bursts)
    rounds.paces.append(paces)


def _yardstick() -> float:
    start = time.perf_counter()
    sum(YARDSTICK)
    return max(time.perf_counter() - start, 1e-9)  # where a coarse clock shows nothing


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
