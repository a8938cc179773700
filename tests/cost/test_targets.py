"""Targets: what they need and say when it is missing, and whose clock counts."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import sysconfig
from types import SimpleNamespace

import pytest
import torch
from models.zoo import CifarResNet
from torch import nn

from autoprune.budget import Device
from autoprune.cost import timing
from autoprune.cost.latency import measure_together
from autoprune.cost.targets import compiled, cuda, device_name, find_target, is_here
from autoprune.errors import DeviceError

QUICK = {"warmup_s": 0.002, "repeats": 10}


class Keywords(nn.Module):
    """Depthwise and pointwise convolutions over time, with a second input."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, width, 9, 4, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, groups=width),
            nn.Conv1d(width, width, 1),
        )
        self.head = nn.Linear(width, 3)

    def forward(self, *, x, mask):
        return {"y": self.head(self.body(x).mean(-1)) * mask}


def one_line(error: pytest.ExceptionInfo[DeviceError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert " · " in text
    return text


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


MAPPED = """
import ctypes, torch
from autoprune.cost.targets import find_target

class Info(ctypes.Structure):
    _fields_ = [(str(n), ctypes.c_size_t) for n in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info

def mapped():
    held = torch.empty(30_000_000, dtype=torch.uint8)
    with_it = getattr(libc.mallinfo2(), "4")  # hblkhd: bytes in mapped blocks
    del held
    return with_it - getattr(libc.mallinfo2(), "4")

with find_target("torch").pinned(1):
    print(mapped())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another allocator")
@pytest.mark.parametrize(("pinned", "mapped"), [(True, False), (False, True)])
def test_what_a_forward_pass_frees_is_kept_for_the_next(pinned, mapped):
    code = MAPPED if pinned else MAPPED.replace('find_target("torch").pinned(1)', "torch.no_grad()")
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert (int(told.stdout) > 0) is mapped


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


def test_a_missing_compiler_or_header_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="no-such-compiler is not there") as error:
        find_target("torch-compile")
    assert "apt-get install g++" in one_line(error)
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DeviceError, match=r"no Python\.h") as error:
        find_target("torch-compile")
    assert "python3-dev" in one_line(error)


def test_here_is_the_same_name_and_an_installed_runtime(monkeypatch):
    assert is_here(Device(device_name(), "torch"))
    assert not is_here(Device("another", "torch"))
    assert not is_here(Device(device_name(), "tensorrt"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not is_here(Device(device_name(), "torch-compile"))


@pytest.mark.slow  # inductor alone takes seconds to load
def test_a_compiled_model_gives_the_same_outputs_on_the_threads_asked_for():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    before = torch.get_num_threads()
    call = compiled.CompiledTorch().prepare(model, x, 1)
    assert torch.get_num_threads() == before
    with torch.inference_mode():
        assert torch.allclose(call(), model(x))


def test_what_cannot_be_compiled_is_one_line():
    class Odd(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(DeviceError, match="'torch-compile' cannot run Odd") as error:
        compiled.CompiledTorch().prepare(Odd(), torch.zeros(1, 4), 1)
    assert "measure it in another runtime" in one_line(error)


@pytest.mark.slow
def test_more_prunings_than_dynamo_would_compile_of_one_code():
    limit = torch._dynamo.config.recompile_limit
    models = [nn.Sequential(nn.Linear(4, 2 + n), nn.ReLU()) for n in range(limit + 3)]
    found = measure_together(models, torch.zeros(1, 4), "torch-compile", **QUICK)
    assert len(found) == limit + 3
    with torch.inference_mode():
        x = torch.randn(1, 4)
        calls = [compiled.CompiledTorch().prepare(model, x, 1) for model in models[-2:]]
        for model, call in zip(models[-2:], calls, strict=True):
            assert torch.allclose(call(), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: CifarResNet(20), torch.zeros(1, 3, 32, 32)),
        (Keywords, {"x": torch.zeros(1, 1, 400), "mask": torch.ones(1, 3)}),
    ],
    ids=["resnet20", "keywords"],
)
def test_whole_networks_compile(build, inputs):
    (latency,) = measure_together([build()], inputs, "torch-compile", **QUICK)
    assert latency.device.runtime == "torch-compile"
    assert latency.median_ms > 0.0


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
