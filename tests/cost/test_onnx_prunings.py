"""Graphs of prunings that are filled instead of exported: the same to ONNX Runtime, or not used."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.cost import onnx_prunings
from autoprune.cost.onnx_export import OnnxModel, to_onnx
from autoprune.cost.onnx_prunings import onnx_of_prunings, optimized
from autoprune.device.sampling import pruned, random_architectures
from autoprune.errors import ExportError
from autoprune.pruning.verification import prunable

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Inverted(nn.Module):
    """Residual, depthwise, and batch normalisations that are all alike when made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
            nn.Conv2d(32, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


def alone(model: nn.Module, written: OnnxModel) -> float:
    """How far the graph's outputs are from the model's."""
    session = onnxruntime.InferenceSession(written.data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, written.feed(X))
    with torch.no_grad():
        return float(np.abs(found - copy.deepcopy(model).eval()(X).numpy()).max())


@pytest.fixture
def exported(monkeypatch) -> list[nn.Module]:
    """The models that were written anew."""
    found: list[nn.Module] = []

    def spied(model, example_inputs):
        found.append(model)
        return to_onnx(model, example_inputs)

    monkeypatch.setattr(onnx_prunings, "to_onnx", spied)
    return found


def prunings(model: nn.Module, count: int = 3) -> list[nn.Module]:
    graph = prunable(model, X)
    found = random_architectures(graph, count, 0)
    return [pruned(model, graph, Architecture(each.widths)) for each in found]


def test_prunings_are_filled_and_become_the_same_in_onnx_runtime(exported):
    torch.manual_seed(0)
    model = Inverted().eval()
    models = [model, *prunings(model)]
    assert len({sum(p.numel() for p in each.parameters()) for each in models}) > 1
    before = [copy.deepcopy(each.state_dict()) for each in models]
    written = list(onnx_of_prunings(models, X))
    assert exported == [model]  # once, to compare
    for small, state, each in zip(models, before, written, strict=True):
        assert alone(small, each) < 1e-5
        assert optimized(each) == optimized(to_onnx(small, X))
        assert all(torch.equal(state[name], value) for name, value in small.state_dict().items())
    again = prunings(model, 2)
    list(onnx_of_prunings([model, *again], X))
    assert exported == [model]  # the graph is kept for the model's further prunings
    two = list(onnx_of_prunings([model, *again], torch.cat([X, X])))
    assert exported == [model, model]  # and another one for another batch
    session = onnxruntime.InferenceSession(two[1].data, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[0] == 2


def test_a_model_alone_is_written_anew(exported):
    model = Inverted().eval()
    (written,) = onnx_of_prunings([model], X)
    assert exported == [model]
    assert written.data == to_onnx(model, X).data


class Shuffled(Inverted):
    """Channels in two halves: the exporter takes their number for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        wide = self.body[2](self.body[1](self.body[0](x)))
        n, c, h, w = wide.shape
        wide = wide.view(n, 2, self.body[0].out_channels // 2, h, w).transpose(1, 2)
        return self.head((x + self.body[3:](wide.reshape(n, c, h, w))).mean((2, 3)))


class Scaled(Inverted):
    """Divided by a width, which the exporter takes for a constant: same shapes, other outputs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) / self.body[0].out_channels
        return self.head((x + self.body(x)).mean((2, 3)))


def narrowed(model: nn.Module) -> nn.Module:
    """The inner channels halved by hand."""
    small = copy.deepcopy(model)
    for place, attribute in ((0, "out"), (3, "both"), (6, "in")):
        old = small.body[place]
        inputs = 16 if attribute in ("in", "both") else old.in_channels
        outputs = 16 if attribute in ("out", "both") else old.out_channels
        groups = 16 if attribute == "both" else 1
        small.body[place] = nn.Conv2d(
            inputs, outputs, old.kernel_size, padding=old.padding, groups=groups, bias=False
        )
    small.body[1], small.body[4] = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    return small.eval()


@pytest.mark.parametrize("kind", [Shuffled, Scaled])
def test_a_pruning_that_the_graph_does_not_fit_is_written_anew(kind, exported):
    torch.manual_seed(0)
    model = kind().eval()
    small = narrowed(model)
    dense, written = onnx_of_prunings([model, small], X)
    assert exported == [model, small]
    assert alone(model, dense) < 1e-5
    assert alone(small, written) < 1e-5


def test_graphs_that_onnx_runtime_would_run_otherwise_are_not_used(exported, monkeypatch):
    counts = iter([Counter(Conv=3), Counter(Conv=3, Transpose=1)])
    monkeypatch.setattr(onnx_prunings, "optimized", lambda written: next(counts))
    model = Inverted().eval()
    models = [model, *prunings(model, 1)]
    assert all(
        alone(each, it) < 1e-5 for each, it in zip(models, onnx_of_prunings(models, X), strict=True)
    )
    assert exported == [model, *models]


def test_outputs_that_are_not_numbers_agree_with_nothing():
    model = Inverted().eval()
    template = onnx_prunings.Template(model, X)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    assert template.filled(model, X) is None


def test_a_model_that_cannot_be_written_is_said():
    class Fft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x).abs()

    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        list(onnx_of_prunings([Fft(), Fft()], torch.eye(3)[None]))
