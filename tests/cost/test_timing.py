"""Timing of calls: order, intervals, ratios, warm-up, and what is measured again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, trim_mean
from scipy.stats.mstats import trimmed_mean_ci

from autoprune.cost import timing


def test_models_take_turns_in_an_order_drawn_anew_for_each_round():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    rounds = timing._rounds(calls, repeats=29)
    assert [[len(burst) for burst in bursts] for bursts in rounds.ms] == [[3, 3]] * 9 + [[2, 2]]
    # one call before each burst is not counted
    turns = [order[start : start + 4] for start in range(0, 72, 4)] + [order[72:75], order[75:]]
    assert all(len(set(turn)) == 1 for turn in turns)
    assert {turns[n][0] + turns[n + 1][0] for n in range(0, 20, 2)} == {"ab", "ba"}


@pytest.mark.parametrize(("models", "turns"), [(1, 1), (2, 1), (5, 2), (7, 2), (25, 5)])
def test_the_first_model_has_the_square_root_of_the_others_number_of_turns(models, turns):
    rounds = timing._rounds([Counting() for _ in range(models)], repeats=6)
    assert [len(times) for times in rounds.times()] == [6 * turns] + [6] * (models - 1)
    assert [len(ratios) for ratios in rounds.ratios()] == [2] * models


def test_the_first_model_counts_with_the_median_of_its_turns():
    rounds = timing.Rounds([[[2.0], [2.0], [9.0], [1.0], [4.0]]], [[1.0] * 5], turns=3)
    assert rounds.times() == [[2.0, 2.0, 9.0], [1.0], [4.0]]
    assert rounds.ratios() == [[1.0], [pytest.approx(0.5)], [pytest.approx(2.0)]]


@pytest.mark.parametrize("n", [6, 7, 20, 99, 100, 501])
def test_the_interval_of_the_median_is_the_narrowest_with_95_percent(n):
    low, high = timing.median_interval(range(1, n + 1))
    assert low + high == n + 1
    assert binom.cdf(low - 1, n, 0.5) <= 0.025 < binom.cdf(low, n, 0.5)


def test_fewer_than_six_values_give_their_range():
    assert timing.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert timing.median_interval([2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("n", [10, 20, 100])
def test_the_ratio_is_a_trimmed_mean_of_logarithms_within_its_interval(n):
    ratios = np.exp(np.random.default_rng(n).standard_t(3, n) / 10.0) / 2.0
    middle, interval = timing.mean_ratio(ratios.tolist())
    assert math.log(middle) == pytest.approx(trim_mean(np.log(ratios), 0.2))
    limits = trimmed_mean_ci(np.log(ratios), (0.2, 0.2), alpha=0.05)
    half = np.diff(np.asarray(limits)) / 2.0
    assert np.log(interval) == pytest.approx(np.asarray(limits), abs=0.01 * float(half[0]))
    assert interval[0] < middle < interval[1]


def paced(ratio: float, slopes: tuple[float, float], rounds: int) -> timing.Rounds:
    """Two models whose times rise with a pace that changes between their turns."""
    rng = np.random.default_rng(0)
    probe_s = 40e-6 * np.where(rng.random((rounds, 2)) < 0.5, 1.0, 1.5)
    times = np.array([5.0, 5.0 * ratio]) * (probe_s / 40e-6) ** np.array(slopes)
    times *= np.exp(0.001 * rng.standard_normal(times.shape))
    return timing.Rounds(np.repeat(times[:, :, None], 3, 2).tolist(), probe_s.tolist())


@pytest.mark.parametrize(
    ("slopes", "ratio", "half_width"),
    [
        ((0.7, 0.7), 0.5, 0.001),
        ((0.0, 0.0), 0.5, 0.001),
        ((0.6, 0.8), 0.5 * 1.5 ** (0.2 * 0.5), 0.02),  # slower by half for half of the time
    ],
)
def test_ratios_are_those_at_equal_pace(slopes, ratio, half_width):
    rounds = paced(0.5, slopes, 200)
    dense, pruned = rounds.ratios()
    assert dense == [1.0] * 200
    found, interval = timing.mean_ratio(pruned)
    assert found == pytest.approx(ratio, rel=half_width)
    assert timing.half_width(interval) < half_width


def test_what_the_bursts_themselves_say_is_wider():
    plain = [ms[1][0] / ms[0][0] for ms in paced(0.5, (0.7, 0.7), 200).ms]
    assert timing.half_width(timing.mean_ratio(plain)[1]) > 0.03


def test_a_pace_that_says_nothing_changes_nothing():
    rounds = paced(0.5, (-0.5, -0.5), 40)  # no slope below 0
    assert rounds.ratios()[1] == pytest.approx([ms[1][0] / ms[0][0] for ms in rounds.ms])
    few = paced(0.5, (0.7, 0.7), timing.LEAST_ROUNDS - 1)
    assert few.ratios()[1] == pytest.approx([ms[1][0] / ms[0][0] for ms in few.ms])


class Scripted(timing.ClockedCall):
    """Times that swing around `middle` by `swing`, less with each call where it `settles`."""

    def __init__(self, middle: float, swing: float, settles: bool = False) -> None:
        self.middle, self.swing, self.settles, self.calls = middle, swing, settles, 0

    def __call__(self) -> float:
        self.calls += 1
        swing = self.swing / self.calls if self.settles else self.swing
        return self.middle * (1.0 + swing * (-1.0) ** self.calls)


def test_further_rounds_follow_until_median_and_ratio_are_known():
    steady = timing._rounds([Scripted(2.0, 0.0), Scripted(1.0, 0.0)], 18, 0.02)
    assert len(steady) == 6
    assert timing.is_precise(steady, 0.0)
    late = timing._rounds([Scripted(2.0, 0.0), Scripted(1.0, 2.0, settles=True)], 18, 0.02)
    assert len(late) > 6
    assert timing.is_precise(late, 0.02)
    late.drop(len(late) - 1)
    assert not timing.is_precise(late, 0.02)
    assert len(timing._rounds([Scripted(2.0, 0.0)], 10, 0.02)) == 6  # five have no interval
    assert len(timing._rounds([Scripted(2.0, 0.5)], 18)) == 6


def test_further_rounds_end_with_their_time(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing, "_probe", lambda: 1.0)
    # a second a round: five rounds until more than 4 s are over, though nothing is known to 0.1 %
    assert len(timing._rounds([Scripted(2.0, 0.5)], 5, 0.001)) == 5


def test_a_slow_model_gets_fewer_repeats(monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing, "_probe", lambda: 1.0)
    assert len(timing._rounds([lambda: None], repeats=100)) == 1


def test_warm_up_goes_on_until_two_windows_agree(monkeypatch):
    medians = iter([9.0, 5.0, 4.0, 3.95, 1.0])
    monkeypatch.setattr(timing, "_window", lambda call, seconds: [next(medians)])
    timing._warm(lambda: None, 100.0)
    assert next(medians) == 1.0


class Counting(timing.ClockedCall):
    """Each call takes as many milliseconds as there were calls."""

    calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return float(self.calls)


def rounds_while_stolen(monkeypatch, readings, repeats, step_s=0.25) -> list[float]:
    """The first time of each round; the clock goes on by `step_s` a round."""
    clock = (step_s * n for n in itertools.count())
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing, "_probe", lambda: 1.0)
    stolen = iter(readings)
    rounds = timing._rounds([Counting()], repeats, steal_s=lambda: next(stolen))
    return [bursts[0][0] for bursts in rounds.ms]


def test_rounds_that_were_stolen_from_are_measured_again(monkeypatch):
    readings = [7.0, 7.01, 7.03, 7.04, 7.05]  # in the second round 20 ms of 250
    assert rounds_while_stolen(monkeypatch, readings, 9) == [1.0, 7.0, 10.0]


def test_short_rounds_are_judged_together(monkeypatch):
    # four of 60 ms make a stretch; one tick of the kernel in the rest of 60 ms says nothing
    readings = [0.0, 0.02, 0.03, 0.04]
    assert rounds_while_stolen(monkeypatch, readings, 15, 0.06) == [13.0, 16.0, 19.0, 22.0, 25.0]


def test_what_is_stolen_all_the_time_is_measured_all_the_same(monkeypatch):
    # half a second a call is thrown away, and then no more
    assert rounds_while_stolen(monkeypatch, itertools.count(), 6) == [7.0, 10.0]


class Wound(timing.ClockedCall):
    """A clock that says 7 ms, however long it took."""

    calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return 7.0


def test_a_call_with_its_own_clock_is_believed():
    wound = Wound()
    rounds = timing.rounds_of([wound, lambda: None], 0.001, 6)
    assert [bursts[0] for bursts in rounds.ms] == [[7.0] * 3, [7.0] * 3]
    assert wound.calls >= 8
    assert all(value < 7.0 for bursts in rounds.ms for value in bursts[1])
