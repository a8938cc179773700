"""The measurement protocol: what it leaves behind and what it promises, never how fast it is."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import statistics

import numpy as np
import pytest
import torch
from scipy.stats import binom, trim_mean
from scipy.stats.mstats import trimmed_mean_ci
from torch import nn

from autoprune.budget import Confidence, Cost
from autoprune.cost import latency as protocol
from autoprune.cost import timing
from autoprune.cost.latency import (
    Latency,
    measure_latency,
    measure_together,
    measured_or_flagged,
)
from autoprune.cost.targets import Protocol, Target, Timings, device_name, load
from autoprune.errors import DeviceError, NoisyError

X = torch.zeros(2, 3, 8, 8)
RUNTIMES = ("torch", "onnxruntime")  # the others have their tests in test_targets
QUICK = {"warmup_s": 0.002, "repeats": 12}


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_median_p95_and_device_come_from_the_timed_calls(runtime):
    latency = measure_latency(small(), X, runtime, **QUICK)
    assert len(latency.raw_ms) == 12
    assert latency.median_ms == statistics.median(latency.raw_ms)
    assert latency.median_ms <= latency.p95_ms <= max(latency.raw_ms)
    assert min(latency.raw_ms) > 0.0
    device = latency.device
    assert (device.runtime, device.batch, device.threads) == (runtime, 2, 1)
    assert device.dtype == "float32"
    assert device.name == device_name() != ""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_model_threads_and_collector_are_as_before(runtime):
    model = small().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure_latency(model, X, runtime, threads=1, **QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert gc.isenabled()


def test_calls_run_in_eval_mode_without_gradients_on_the_threads_asked_for():
    seen = []

    class Spy(nn.Module):
        def __deepcopy__(self, memo):
            return Spy()

        def forward(self, x):
            seen.append((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
            return x

    measure_latency(Spy(), X, threads=1, **QUICK)
    assert set(seen) == {(False, True, 1)}
    assert len(seen) >= 12 + 2


def test_a_failing_model_leaves_the_threads_as_they_were():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("boom")

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="boom"):
            measure_latency(Broken(), X, **QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert gc.isenabled()


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


def even(*rounds) -> timing.Rounds:
    """Rounds, each a list of bursts by model, at one pace."""
    bursts = [[list(burst) for burst in each] for each in rounds]
    return timing.Rounds(bursts, [[1.0] * len(each) for each in rounds])


def latencies(*rounds, busy=None) -> list[Latency]:
    """Latencies of models timed in these rounds, each a list of bursts by model."""
    models = [small() for _ in rounds[0]]
    return protocol._latencies(Timings(even(*rounds), "x", busy), models, X, "torch", 1)


def test_ratio_is_relative_to_the_first_and_cancels_a_slow_phase():
    dense, pruned = latencies([[2.0, 2.0], [1.0, 1.0]], [[20, 20], [10, 10]], [[2, 2], [1, 1]])
    assert (dense.ratio, pruned.ratio) == (1.0, pytest.approx(0.5))
    assert (dense.ratio_ci, pruned.ratio_ci) == ((1.0, 1.0), pytest.approx((0.5, 0.5)))
    assert (dense.median_ms, pruned.median_ms) == (2.0, 1.0)
    assert pruned.ci_ms == (1.0, 10.0)  # the slow phase is in the median's interval


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


class Restless(Target):
    """A busy machine: the second model takes 1, 2 or 4 times as long, until try `steady`."""

    def __init__(self, steady: int, share: float) -> None:
        self.steady, self.share = steady, share
        self.asked: list[Protocol] = []

    def reach(self, threads):
        pass

    def time(self, models, example_inputs, protocol):
        self.asked.append(protocol)
        slow = 1.0 if len(self.asked) >= self.steady else 2.0
        bursts = ([[1.0] * 5, [slow ** (n % 3)] * 5][: len(models)] for n in range(20))
        rounds = even(*bursts)
        return Timings(rounds, "x", self.share, 2)


@pytest.fixture
def busy(monkeypatch):
    """Puts a machine that is steady at the n-th try in place of every target."""
    pauses: list[float] = []
    monkeypatch.setattr(protocol.time, "sleep", pauses.append)
    monkeypatch.setattr(protocol, "EFFORT", protocol.Effort())

    def put(steady: int, share: float = 0.8) -> tuple[Restless, list[float]]:
        machine = Restless(steady, share)
        monkeypatch.setattr(protocol, "find_target", lambda runtime: machine)
        return machine, pauses

    return put


def test_a_hopeless_measurement_is_tried_again_after_a_pause(busy):
    machine, pauses = busy(steady=2)
    _, second = measure_together([small(), small()], X)
    assert (second.ratio, second.ratio_ci) == (1.0, (1.0, 1.0))
    assert [it.precision for it in machine.asked] == [protocol.PRECISION] * 2
    assert pauses == [3.0]


def test_a_measurement_that_stays_hopeless_is_refused_with_its_figures(busy):
    machine, pauses = busy(steady=99)
    with pytest.raises(NoisyError, match=r"refused after 4 tries: .* known to ±44% only") as it:
        measure_together([small(), small()], X)
    assert "\n" not in str(it.value)
    # 7, 7 and 6 rounds at 1, 2 and 4 times; without the fifth at either end 3, 7 and 2
    assert [latency.ratio for latency in it.value.latencies] == [1.0, pytest.approx(2 ** (11 / 12))]
    assert (len(machine.asked), pauses) == (4, [3.0, 6.0, 12.0])


def test_a_steady_measurement_without_room_for_its_threads_is_refused(busy):
    busy(steady=0, share=0.7)
    measure_together([small()], X, threads=1)  # 0.6 of a core for the thread
    with pytest.raises(NoisyError, match=r"processes took 70% of the cores · stop"):
        measure_together([small()], X, threads=2)


def test_work_that_must_not_be_lost_is_flagged_instead(busy):
    busy(steady=99)
    _, second = measured_or_flagged([small(), small()], X, "torch", 1)
    low, high = second.ratio_ci
    assert 1.0 < low < second.ratio < high < 4.0
    assert "others on 80% of the cores" in second.confidence.note


def test_exactly_so_many_repeats_are_never_refused(busy):
    machine, _ = busy(steady=99)
    assert len(measure_together([small(), small()], X, repeats=3)) == 2
    assert [(it.repeats, it.precision) for it in machine.asked] == [(3, None)]


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


def test_wide_spread_and_a_busy_machine_are_flagged():
    device = protocol.Device("x")
    steady = Latency(1.0, 1.0, (1.0, 1.0, 1.01, 1.01, 5.0), device, busy=0.1)
    assert not steady.noisy
    assert steady.confidence.note == ""
    wide = Latency(1.0, 1.0, (0.8, 0.8, 1.0, 1.2, 1.2), device)
    assert wide.confidence.note == "noisy: spread 40%"
    busy = dataclasses.replace(steady, busy=0.5)
    assert busy.confidence.note == "noisy: others on 50% of the cores"


def test_measured_latency_replaces_a_predicted_one_and_travels_with_its_confidence():
    device = protocol.Device("x", threads=2)
    predicted = Cost(params=3, latency_ms=9.0, source="predicted", device=protocol.Device("y"))
    measured = Latency(1.0, 2.0, (1.0, 2.0), device, 0.5, (0.4, 0.6), 0.0)
    cost = measured.added_to(predicted)
    assert cost == Cost(
        params=3,
        latency_ms=1.0,
        latency_p95_ms=2.0,
        source="measured",
        device=device,
        confidence=Confidence((1.0, 2.0), 0.5, (0.4, 0.6), 0.5, 0.0),
    )
    assert Cost.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost


def test_others_load_is_what_our_cores_did_less_what_we_did(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "_STAT", stat)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0, 2})
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    clocks = {"monotonic": iter([0.0, 10.0, 10.0]), "process_time": iter([1.0, 4.0, 30.0])}
    for name, values in clocks.items():
        monkeypatch.setattr(load.time, name, lambda values=values: next(values))
    stat.write_text(
        "cpu 9 9 9 9\ncpu0 100 0 0 5 5 0 0 0\ncpu1 7 7 7 7 7 7 7 7\ncpu2 0 0 0 0 0 0 0 0\n"
    )
    watch = load.ExternalLoad()
    # of 2 x 10 s: 6 s user and nice, 1 s system, 2 s stolen; idle, waiting and cpu1 do not count
    stat.write_text(
        "cpu0 400 100 100 90 90 0 0 200\ncpu1 0 0 0 0 0 0 0 0\ncpu2 200 0 0 5 5 0 0 0\n"
    )
    assert watch.share() == pytest.approx((9.0 - 3.0) / 20.0)
    # we did more than the counters have noticed yet; but what was stolen was not ours
    assert watch.share() == pytest.approx(2.0 / 20.0)
    assert load.steal_s() == pytest.approx(2.0)


def test_a_system_that_does_not_tell_its_load_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "_STAT", tmp_path / "none")
    assert load.ExternalLoad().share() is None
    assert load.steal_s() == 0.0


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"runtime": "onnx"},
            "runtime must be one of torch, onnxruntime, .*, got 'onnx' .*onnxruntime",
        ),
        ({"threads": 0}, r"threads must be from 1 to \d+ \(the cores here\), got 0"),
        ({"threads": 10_000}, "got 10000"),
    ],
)
def test_wrong_devices_are_refused_in_one_line(options, message):
    with pytest.raises(DeviceError, match=message):
        measure_latency(small(), X, **options)


def test_two_inputs_and_keywords_run_in_both_runtimes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, mask, scale=1.0):
            return {"y": self.layer(x) * mask * scale}

    inputs = {"mask": torch.ones(3, 1), "x": torch.zeros(3, 4), "scale": 2.0}
    for runtime in RUNTIMES:
        for latency in measure_together([Two(), Two()], inputs, runtime, **QUICK):
            assert latency.device.batch == 3
