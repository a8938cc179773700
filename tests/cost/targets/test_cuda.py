"""Runtimes of a GPU: what they say where there is none, and whose clock counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autoprune.cost.latency import measure_together
from autoprune.cost.targets import cuda, find_target
from autoprune.errors import DeviceError

QUICK = {"warmup_s": 0.002, "repeats": 10}


def one_line(error: pytest.ExceptionInfo[DeviceError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert " · " in text
    return text


def test_the_event_clock_waits_for_the_device_before_and_after(monkeypatch):
    seen = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            seen.append("record")

        def synchronize(self):
            seen.append("wait")

        def elapsed_time(self, end):
            assert end is not self
            return 1.5

    fake = SimpleNamespace(Event=Event, synchronize=lambda: seen.append("idle"))
    monkeypatch.setattr(cuda.torch, "cuda", fake)
    clock = cuda.EventClock(lambda: seen.append("work"))
    assert clock() == 1.5
    assert seen == ["idle", "record", "work", "record", "wait"]


@pytest.mark.parametrize("runtime", ["cuda", "cuda-graph"])
def test_a_pytorch_without_cuda_is_said(monkeypatch, runtime):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="built for CUDA") as error:
        find_target(runtime)
    assert "pip install torch" in one_line(error)


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="finds none") as error:
        find_target("cuda")
    assert "nvidia-smi" in one_line(error)


def test_a_missing_provider_is_said(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="has CPUExecutionProvider") as error:
        find_target("onnxruntime-cuda")
    assert "onnxruntime-gpu" in one_line(error)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["cuda", "cuda-graph", "onnxruntime-cuda"])
def test_gpu_runtimes_measure_on_the_gpu(runtime):
    models = [nn.Conv2d(3, width, 3) for width in (64, 256)]
    for latency in measure_together(models, torch.zeros(4, 3, 64, 64), runtime, **QUICK):
        assert latency.device.name == torch.cuda.get_device_name()
        assert latency.median_ms > 0.0


@pytest.mark.gpu
def test_a_captured_graph_computes_what_the_model_does():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    call = cuda.CudaGraph().prepare(model, x, 1)
    call()
    assert torch.allclose(call._outputs.cpu(), model(x), atol=1e-3)
