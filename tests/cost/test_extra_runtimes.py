"""Runtimes that are extras: what each must do, and what is said where its package is missing."""

from __future__ import annotations

import importlib.util
import time
from importlib.machinery import ModuleSpec

import pytest
import torch
from torch import nn

from autoprune.budget import Device
from autoprune.cost.latency import measure_together
from autoprune.cost.targets import PACKAGES, RUNTIMES, find_target, is_here
from autoprune.cost.targets.on_device import device_name
from autoprune.errors import DeviceError

EXTRAS = {
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "executorch": ("executorch",),
    "litert": ("ai_edge_litert",),
}
SLOW = {"executorch", "litert"}  # seconds a model
RUNTIME = pytest.mark.parametrize("runtime", EXTRAS)
RUNS = pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXTRAS],
)
QUICK = {"warmup_s": 0.002, "repeats": 10}


def need(runtime: str) -> None:
    for module in EXTRAS[runtime]:
        pytest.importorskip(module)
    try:
        RUNTIMES[runtime].check()
    except DeviceError as error:  # what is no package of this environment
        pytest.skip(str(error))


def network(width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 5),
    )


X = torch.zeros(1, 3, 32, 32)


@RUNTIME
def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch, runtime):
    *present, missing = EXTRAS[runtime]
    found = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        if name == missing:
            return None
        return ModuleSpec(name, None) if name in present else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(DeviceError) as error:
        find_target(runtime)
    text = str(error.value)
    assert text.startswith(f"{runtime} needs {missing}, not installed here · ")
    assert text.endswith(f"pip install 'autoprune[{runtime}]'")
    assert "\n" not in text
    assert not is_here(Device(device_name(), runtime))


@RUNTIME
def test_its_packages_are_recorded(runtime):
    assert set(RUNTIMES[runtime].packages) <= set(PACKAGES)
    assert RUNTIMES[runtime].packages


@RUNS
def test_models_are_measured_and_a_smaller_one_is_faster(runtime):
    need(runtime)
    big, small = measure_together([network(64), network(8)], X, runtime, warmup_s=0.05, repeats=30)
    assert big.device.runtime == runtime
    assert big.device.dtype == "float32"
    assert small.median_ms > 0.0
    assert small.ratio < 0.7  # 64 times fewer multiplications


@RUNS
def test_one_thread_uses_one_core(runtime):
    need(runtime)
    target = RUNTIMES[runtime]
    call = target.prepare(network(128), X, 1)
    with target.pinned(1):
        call()
        wall, used = time.perf_counter(), time.process_time()
        for _ in range(20):
            call()
        used, wall = time.process_time() - used, time.perf_counter() - wall
    assert used <= 1.1 * wall


@RUNS
def test_the_model_is_not_changed(runtime):
    need(runtime)
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_together([model], X, runtime, **QUICK)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(module.training for module in model.modules())


@RUNS
def test_more_threads_than_cores_are_refused(runtime):
    need(runtime)
    with pytest.raises(DeviceError, match=r"threads must be from 1 to \d+"):
        measure_together([network()], X, runtime, threads=4096, **QUICK)
