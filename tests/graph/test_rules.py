"""Elementwise operators, reductions, and what no rule knows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models.cutting import gap
from models.through import Function, Through, of_features, of_images, reason_of, units_of
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable

ELEMENTWISE: dict[str, Function] = {
    "relu": F.relu,
    "sigmoid keeps no zero": lambda x: torch.sigmoid(x) * x,
    "itself": lambda x: x + x.tanh(),
    "scalar": lambda x: 2.0 * x - 1.0,
    "constant": lambda x: x * torch.full((1,), 3.0),
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    "where": lambda x: torch.where(x > 0.0, x, 0.1 * x),
    "maximum": lambda x: torch.maximum(x, -x),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "zeros like": lambda x: x + torch.zeros_like(x),
    "quantized": lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, -128, 127).to(
        x
    ),
    "quantized by tensors": lambda x: torch.fake_quantize_per_tensor_affine(
        x.float(), torch.tensor([0.1]), torch.tensor([0], dtype=torch.int32), -128, 127
    ).to(x),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operators_pass_channels_on(name: str) -> None:
    assert units_of(of_features(ELEMENTWISE[name])) == 8
    assert units_of(of_images(ELEMENTWISE[name])) == 8


OVER_POSITIONS: dict[str, Function] = {
    "mean over positions": lambda x: x.mean((2, 3)),
    "largest position": lambda x: x.amax((2, 3)),
    "sum over positions": lambda x: x.sum(3).sum(2),
    "variance over positions": lambda x: x.var((2, 3)),
    "softmax over positions": lambda x: x.softmax(3),
    "running sum over positions": lambda x: x.cumsum(2),
    "third smallest position": lambda x: x.flatten(2).kthvalue(3, -1).values[:, :, None, None],
}


@pytest.mark.parametrize("name", OVER_POSITIONS)
def test_reductions_over_positions_pass_channels_on(name: str) -> None:
    assert units_of(of_images(OVER_POSITIONS[name])) == 8


OVER_CHANNELS: dict[str, Function] = {
    "sort": lambda x: x.sort(-1).values,
    "running sum": lambda x: x.cumsum(-1),
    "largest": lambda x: x * x.amax(-1, keepdim=True),
    "mean as a value": lambda x: x * x.mean(-1, keepdim=True),
    "argmax": lambda x: x + x.argmax(-1, keepdim=True),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_what_mixes_channels_is_not_prunable(name: str) -> None:
    graph = of_features(OVER_CHANNELS[name])
    assert units_of(graph) == 0
    assert reason_of(graph)


KEPT_ONLY: dict[str, Function] = {
    "sum": lambda x: x * x.sum(-1, keepdim=True),
    "sum of what is not zero where it is pruned": lambda x: x * x.exp().sum(-1, keepdim=True),
    "norm": lambda x: x * (x + 1.0).norm(dim=-1, keepdim=True),
    "distance": lambda x: F.pairwise_distance(x[:, :3], x[:, 2:]),
    "softmax": lambda x: x.softmax(-1),
    "logarithm of softmax": lambda x: x.log_softmax(-1) * x,
    "attention between channels": lambda x: ((x.mT @ x).softmax(-1) @ x.mT).mT,
    "linear attention": lambda x: (F.elu(x) + 1) @ ((F.elu(x) + 1).mT @ x),
}


@pytest.mark.parametrize("name", KEPT_ONLY)
def test_sums_and_softmax_over_channels_are_over_the_kept_ones(name: str) -> None:
    assert units_of(of_features(KEPT_ONLY[name])) == 8


def test_a_softmax_over_kept_channels_by_hand() -> None:
    torch.manual_seed(0)
    x, kept = torch.randn(3, 6), [1, 4, 6]
    model = Through(lambda x: x.softmax(-1), nn.Linear(6, 8), x)
    wanted = model.stem(x)[:, kept].softmax(-1) @ model.head.weight[:, kept].T + model.head.bias
    prune(model, prunable(model, x), {"stem": kept})
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize(
    "divide",
    [lambda x, w: x / w, lambda x, w: x * w.reciprocal(), lambda x, w: x * w.square().rsqrt()],
)
def test_a_division_by_a_pruned_parameter_is_compared_too(
    divide: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Zero by zero is not a number, with which nothing can be compared."""

    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.step = nn.Parameter(torch.rand(8) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(divide(self.a(x), self.step))

    torch.manual_seed(0)
    model, x = Divided(), torch.randn(4, 6)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 8}
    assert gap(model, graph, {"a": [0, 2, 3]}, x, train=False) < 1e-9


def test_the_halves_of_a_gated_unit_are_pruned_together() -> None:
    assert units_of(of_features(lambda x: F.glu(x, -1))) == 4
    assert units_of(of_images(lambda x: F.glu(x, 1))) == 4


def test_different_constants_at_different_places_are_not_prunable() -> None:
    graph = of_features(lambda x: x * torch.arange(8.0))
    assert units_of(graph) == 0
    assert "fixed" in reason_of(graph)


def test_a_broadcast_operand_couples_nothing() -> None:
    assert units_of(of_features(lambda x: x * x.new_ones(1))) == 8
    assert units_of(of_images(lambda x: x * x.new_full((6, 6), 2.0))) == 8


def test_an_unknown_operator_is_the_reason() -> None:
    graph = of_features(lambda x: torch.linalg.qr(x).Q)
    assert units_of(graph) == 0
    assert reason_of(graph) == "linalg_qr is not understood"
