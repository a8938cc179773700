"""The measurement protocol: what it leaves behind and what it promises, never how fast it is."""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics

import pytest
import torch
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
from autoprune.cost.targets import Protocol, Target, Timings, device_name
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
    assert "other programs on 80% of the cores" in second.confidence.note


def test_exactly_so_many_repeats_are_never_refused(busy):
    machine, _ = busy(steady=99)
    assert len(measure_together([small(), small()], X, repeats=3)) == 2
    assert [(it.repeats, it.precision) for it in machine.asked] == [(3, None)]


def test_wide_spread_and_a_busy_machine_are_flagged():
    device = protocol.Device("x")
    steady = Latency(1.0, 1.0, (1.0, 1.0, 1.01, 1.01, 5.0), device, busy=0.1)
    assert not steady.noisy
    assert steady.confidence.note == ""
    wide = Latency(1.0, 1.0, (0.8, 0.8, 1.0, 1.2, 1.2), device)
    assert wide.confidence.note == "noisy: spread 40%"
    busy = dataclasses.replace(steady, busy=0.5)
    assert busy.confidence.note == "noisy: other programs on 50% of the cores"


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
