"""Times of layers in ONNX Runtime: which module each operator belongs to."""

from __future__ import annotations

from dataclasses import replace

import onnx
import torch
from torch import nn

from autoprune.cost.layer_times import layer_times
from autoprune.cost.onnx_export import OnnxModel, to_onnx


class Residual(nn.Module):
    """Two convolutions with normalization and activation, a projection beside them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d
        self.inner = nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), norm(outputs), nn.ReLU())
        self.last = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.last(self.inner(x)) + self.short(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(Residual(3, 8), Residual(8, 64))
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(x).mean((2, 3)))


IMAGE = torch.zeros(1, 3, 32, 32)
CONVOLUTIONS = {f"model.{n}.{name}" for n in (0, 1) for name in ("inner.0", "last", "short")}


def test_fused_operators_count_for_the_layer_that_they_are_fused_into() -> None:
    times = layer_times(Net().eval(), IMAGE)
    assert {name for name in times if name.startswith("model.")} >= CONVOLUTIONS
    assert "head" in times
    assert not any("inner.1" in name for name in times)  # the normalization is folded
    assert all(ms > 0.0 for ms in times.values())


def test_a_container_has_the_names_of_its_own_modules() -> None:
    net = nn.Sequential(Residual(3, 8), nn.Flatten(), nn.Linear(8 * 16 * 16, 5)).eval()
    assert set(layer_times(net, IMAGE)) >= {"0.inner.0", "0.last", "0.short", "2"}


def test_attention_and_the_matrices_of_an_encoder_are_told_apart() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    times = layer_times(net, torch.zeros(1, 6, 16))
    wanted = {f"layers.{n}.{name}" for n in (0, 1) for name in ("self_attn", "linear1", "linear2")}
    assert set(times) >= wanted


def test_without_names_of_modules_there_are_no_times(monkeypatch) -> None:
    monkeypatch.setattr("autoprune.cost.layer_times.to_onnx", numbered)
    assert layer_times(Net().eval(), IMAGE) == {}


def numbered(model: nn.Module, example: torch.Tensor) -> OnnxModel:
    """A file whose operators have numbers for names."""
    written = to_onnx(model, example)
    proto = onnx.load_from_string(written.data)
    for number, node in enumerate(proto.graph.node):
        node.name = f"node_{number}"
    return replace(written, data=proto.SerializeToString())
