"""torch.compile: what it needs, and that its models compute the same."""

from __future__ import annotations

import sys
import sysconfig

import pytest
import torch
from models.zoo import CifarResNet
from torch import nn

from autoprune.cost.latency import measure_together
from autoprune.cost.targets import compiled, find_target
from autoprune.errors import DeviceError

QUICK = {"warmup_s": 0.002, "repeats": 10}


def one_line(error: pytest.ExceptionInfo[DeviceError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert " · " in text
    return text


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
