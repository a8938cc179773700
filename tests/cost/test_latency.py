"""The measurement protocol: what it leaves behind and what it promises, never how fast it is."""

from __future__ import annotations

import gc
import statistics

import pytest
import torch
from torch import nn

from autoprune.budget import Cost
from autoprune.cost import latency as protocol
from autoprune.cost import timing
from autoprune.cost.latency import Latency, measure_latency, measure_together
from autoprune.cost.targets import device_name
from autoprune.errors import DeviceError

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


def test_models_take_turns_in_alternating_order():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    rounds = timing._rounds(calls, repeats=7)
    assert [[len(burst) for burst in bursts] for bursts in rounds] == [[5, 5], [2, 2]]
    # one call before each burst is not counted
    assert order == ["a"] * 6 + ["b"] * 6 + ["b"] * 3 + ["a"] * 3


def test_ratio_is_relative_to_the_first_and_cancels_a_slow_phase():
    rounds = [[[2.0, 2.0], [1.0, 1.0]], [[20.0, 20.0], [10.0, 10.0]], [[2.0, 2.0], [1.0, 1.0]]]
    device = protocol.Device("x")
    dense, pruned = (protocol._latency(rounds, place, device) for place in (0, 1))
    assert (dense.ratio, pruned.ratio) == (1.0, 0.5)
    assert (dense.median_ms, pruned.median_ms) == (2.0, 1.0)


def test_a_slow_model_gets_fewer_repeats(monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert len(timing._rounds([lambda: None], repeats=100)) == 1


def test_warm_up_goes_on_until_two_windows_agree(monkeypatch):
    medians = iter([9.0, 5.0, 4.0, 3.95, 1.0])
    monkeypatch.setattr(timing, "_window", lambda call, seconds: [next(medians)])
    timing._warm(lambda: None, 100.0)
    assert next(medians) == 1.0


def test_wide_spread_is_flagged():
    device = protocol.Device("x")
    steady = Latency(1.0, 1.0, (1.0, 1.0, 1.01, 1.01, 5.0), device)
    assert not steady.noisy
    assert Latency(1.0, 1.0, (0.8, 0.8, 1.0, 1.2, 1.2), device).noisy


def test_measured_latency_replaces_a_predicted_one():
    device = protocol.Device("x", threads=2)
    predicted = Cost(params=3, latency_ms=9.0, source="predicted", device=protocol.Device("y"))
    cost = Latency(1.0, 2.0, (1.0, 2.0), device).added_to(predicted)
    assert cost == Cost(
        params=3, latency_ms=1.0, latency_p95_ms=2.0, source="measured", device=device
    )


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
