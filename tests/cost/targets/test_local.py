"""The runtimes of this machine's processor."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.targets import find_target
from autoprune.cost.targets.local import EagerTorch, OnnxRuntime
from autoprune.errors import DeviceError

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


def test_eager_calls_run_a_copy_in_eval_mode_under_the_pin() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).train(), torch.ones(2, 4)
    target = find_target("torch")
    assert isinstance(target, EagerTorch)
    call = target.prepare(model, x, 1)
    wanted = model[0](x).detach()
    with torch.no_grad():
        model[0].weight.zero_()
    before = torch.get_num_threads()
    with target.pinned(before + 1):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
        torch.testing.assert_close(call(), wanted)
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()
    assert model.training


def test_the_number_of_threads_returns_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), EagerTorch().pinned(before + 1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before


def test_sessions_answer_what_the_model_does() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval(), torch.randn(2, 4)
    target = OnnxRuntime()
    (call,) = target.prepare_all([model], x, 1)
    (found,) = call()  # type: ignore[misc]
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-5, atol=1e-6)
    assert target.session(to_onnx(model, x), 1).get_providers() == ["CPUExecutionProvider"]


def test_a_missing_onnxruntime_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError) as caught:
        OnnxRuntime().check()
    assert str(caught.value) == ("runtime 'onnxruntime' is not installed · pip install onnxruntime")
