"""Timing of calls: warm-up until steady, then interleaved rounds.

Uses only the standard library of Python 3.8: the same file also runs on remote devices.
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


BURST = 3  # timed calls of one model before the next model
STEADY = 0.05  # warm when the medians of two windows differ by less
LONGEST_S = 10.0  # per call: no further repeats after that
FURTHER_S = 4.0  # per call, from the start: no further rounds to gain precision
LEAST_ROUNDS = 6  # below, no interval of order statistics holds with 95 % confidence
TRIM = 0.2  # share of the rounds' ratios that is trimmed at either end
MAX_STEAL = 0.05  # share of steal time above which a segment of rounds is measured again
SEGMENT_S = 0.2  # length of a segment: the kernel counts steal time in units of 10 ms
REPEAT_S = 0.5  # per call: at most this much time is discarded
PROBE = range(2500)  # summed before and after every timed call: about 40 microseconds on a server
WINSORIZED = 0.05  # share of the times at either end, and of the slowest probes, that is winsorized


@dataclass
class Rounds:
    """Timings: `ms[round][turn]` is a burst of calls, `probe_s` the seconds of the probe around it.

    The first `turns` of a round belong to the first call, with which the others are compared; then
    every other call has one turn. The probe is a fixed piece of arithmetic, run between the calls.
    It measures the speed of the processor at that moment: another process on the core, or a lower
    clock, slows both.
    """

    ms: list[list[list[float]]] = field(default_factory=list)
    probe_s: list[list[float]] = field(default_factory=list)
    turns: int = 1

    def __len__(self) -> int:
        return len(self.ms)

    def drop(self, first: int) -> None:
        """Discard the rounds from that one on."""
        del self.ms[first:], self.probe_s[first:]

    def times(self) -> list[list[float]]:
        """By call, the milliseconds of all its turns, in order."""
        return [
            [value for bursts in self.ms for place in places for value in bursts[place]]
            for places in self._places()
        ]

    def ratios(self) -> list[list[float]]:
        """By call, its ratios to the first call by round, corrected for the processor's speed.

        From the medians of bursts; of the first call, the median of its turns' in the round. The
        logarithm of a time is linear in that of the probe, with a slope that all calls share
        (analysis of covariance, Fisher 1932), between 0 and 1. Fewer than six rounds are too few
        for a slope.
        """
        times = [[math.log(statistics.median(burst)) for burst in bursts] for bursts in self.ms]
        probe_s = [[math.log(probe) for probe in each] for each in self.probe_s]
        if len(times) >= LEAST_ROUNDS and len(times[0]) > 1:
            cap = _quantile([probe for each in probe_s for probe in each], 1.0 - WINSORIZED)
            probe_s = [[min(probe, cap) for probe in each] for each in probe_s]
            slope = _shared_slope(list(zip(*probe_s)), list(zip(*times)))
            times = [
                [value - slope * probe for value, probe in zip(*pair)]
                for pair in zip(times, probe_s)
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
    steal_s: Callable[[], float] = float,
) -> Rounds:
    """Milliseconds by round, call and repeat, of calls that are warmed up first.

    Each call is warmed up for `warmup_s` seconds and on until two windows agree. Each round then
    gives every call a short burst (one that is not counted, then three that are, with a probe
    around each, see `Rounds`), in a new random order, until each was timed `repeats` times or 10 s
    a call are over. The first call, the reference of all ratios, has the optimal number of turns
    per round: the square root of their number (Dunnett 1955). With `precision`, further rounds
    follow until `is_precise`, or until 4 s a call are over.

    `steal_s` reads the steal time of a virtual machine. Rounds with more than 5 % of steal time are
    measured again, within a limit.
    """
    with _undisturbed():
        for call in calls:
            _warm(call, warmup_s)
        return _rounds(calls, repeats, precision, steal_s)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median of independent values of any distribution.

    The k-th smallest and the k-th largest value, k the largest for which a fair coin tossed n
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
    """The slope of y over x within the rows, 0 to 1; the outermost y of each row are winsorized."""
    above = below = 0.0
    for xs, ys in zip(x, y):
        low, high = _quantile(ys, WINSORIZED), _quantile(ys, 1.0 - WINSORIZED)
        inner = [min(max(value, low), high) for value in ys]
        middle_x, middle_y = statistics.fmean(xs), statistics.fmean(inner)
        above += sum((a - middle_x) * (b - middle_y) for a, b in zip(xs, inner))
        below += sum((a - middle_x) ** 2 for a in xs)
    return min(max(above / below, 0.0), 1.0) if below > 0.0 else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    """The quantile at that share."""
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
    below = term = rank = 1  # below / 2**n: the probability of fewer heads than the rank
    while rank < n and 40 * (below + term * (n - rank + 1) // rank) <= 2**n:
        term = term * (n - rank + 1) // rank
        below += term
        rank += 1
    return rank


def _rounds(
    calls: Sequence[Call],
    repeats: int,
    precision: float | None = None,
    steal_s: Callable[[], float] = float,
) -> Rounds:
    start = time.perf_counter()
    segment = _Segment(start, steal_s, REPEAT_S * len(calls))
    rounds = Rounds(turns=max(1, round(math.sqrt(len(calls) - 1))))
    turns = [*[calls[0]] * rounds.turns, *calls[1:]]
    rng = random.Random(0)
    while True:
        left = repeats - BURST * len(rounds)
        order = rng.sample(range(len(turns)), len(turns))
        _round(turns, order, rounds, min(BURST, left) if left > 0 else BURST)
        now = time.perf_counter()
        longest = LONGEST_S if precision is None or left > BURST else FURTHER_S
        if now - start > longest * len(calls):
            return rounds
        enough = left <= BURST and (precision is None or _is_known(rounds, precision))
        if enough or now - segment.since >= SEGMENT_S:
            discarded = segment.end(rounds, now)
            if enough and not discarded:
                return rounds


def _is_known(rounds: Rounds, precision: float) -> bool:
    """`is_precise`, evaluated only after each further 5 % of rounds, since it is slow."""
    return len(rounds) % max(1, len(rounds) // 20) == 0 and is_precise(rounds, precision)


class _Segment:
    """The rounds since the last check of the steal time."""

    def __init__(self, since: float, steal_s: Callable[[], float], budget_s: float) -> None:
        self.since = since
        self._clock, self._budget_s = steal_s, budget_s
        self._steal, self._first = steal_s(), 0

    def end(self, rounds: Rounds, now: float) -> bool:
        """Start the next segment; if its steal time is too long, discard this one: True."""
        seconds, steal = now - self.since, self._clock()
        lost = round(steal - self._steal, 3)  # the kernel counts in hundredths
        discarded = lost > MAX_STEAL * max(seconds, SEGMENT_S) and self._budget_s > 0.0
        if discarded:
            self._budget_s -= seconds
            rounds.drop(self._first)
        self.since, self._steal, self._first = now, steal, len(rounds)
        return discarded


def _round(turns: Sequence[Call], order: Sequence[int], rounds: Rounds, burst: int) -> None:
    """Add a round: a burst each turn, in this order, and the probe around each timed call."""
    bursts: list[list[float]] = [[] for _ in turns]
    probe_s = [0.0] * len(turns)
    for place in order:
        if len(turns) > 1:
            turns[place]()
        before = _probe()
        for _ in range(burst):
            bursts[place].append(_timed(turns[place]))
            after = _probe()
            probe_s[place] += (before + after) / 2 / burst
            before = after
    rounds.ms.append(bursts)
    rounds.probe_s.append(probe_s)


def _probe() -> float:
    start = time.perf_counter()
    sum(PROBE)
    return max(time.perf_counter() - start, 1e-9)  # a coarse clock may show 0


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
    """Without the garbage collector; its state is restored."""
    before = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
