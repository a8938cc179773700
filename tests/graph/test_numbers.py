"""Numbers that code computes from sizes: what they count is not prunable unless they stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import trace
from autoprune.pruning.one_shot import prune_model

X = torch.zeros(1, 5, 8)  # hides every scale
REASON = "its size is used as a number (a scale, for example)"


class Attention(nn.Module):
    """Attention over all channels at once."""

    def __init__(self, weights: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 16), nn.Linear(8, 16)
        self.v, self.o, self.weights = nn.Linear(8, 12), nn.Linear(12, 3), weights

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        return self.o(self.weights(self, q, k).softmax(-1) @ self.v(x))


def logits(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2)


@pytest.mark.parametrize(
    "weights",
    [
        lambda s, q, k: logits(q, k) / math.sqrt(q.size(-1)),
        lambda s, q, k: logits(q, k) / np.sqrt(q.shape[-1]),
        lambda s, q, k: logits(q, k) / math.sqrt(s.q.out_features),
        lambda s, q, k: logits(q * k.shape[2] ** -0.5, k),
        lambda s, q, k: logits(q, k) * (1 / q.shape[2]),
        lambda s, q, k: logits(q, k) * (q.shape[2] / 4),
        lambda s, q, k: logits(q, k) / (0.5 + q.shape[2] * 0.5),
        lambda s, q, k: logits(q, k) / (2 * q.shape[2]),
        lambda s, q, k: logits(q, k).div(q.shape[2]),
        lambda s, q, k: logits(q, k) / torch.tensor(q.shape[2]).sqrt(),
        lambda s, q, k: logits(q, k) / torch.full((1,), s.k.out_features),
    ],
)
def test_channels_that_a_number_counts_stay(
    weights: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> None:
    graph = trace(Attention(weights), X)
    assert graph.sizes() == {"v": 12}
    assert {f.reason for f in graph.frozen if f.name in ("q", "k")} == {REASON}


@pytest.mark.parametrize("dims", [3, 4])
def test_the_width_of_queries_sets_the_scale_of_attention(dims: int) -> None:
    class Fused(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.q(x), self.k(x), self.v(x)
            if dims == 4:
                q, k, v = q[:, None], k[:, None], v[:, None]
            return self.o(F.scaled_dot_product_attention(q, k, v).view(1, 5, -1))

    graph = trace(Fused(lambda s, q, k: q), X)
    assert graph.sizes() == {"v": 12}
    assert {f.reason for f in graph.frozen if f.name == "q"} == {"sets the scale of attention"}


@pytest.mark.parametrize(
    "weights",
    [
        lambda s, q, k: logits(q, k) / 4,
        lambda s, q, k: F.scaled_dot_product_attention(q, k, torch.eye(5)[None], scale=0.25),
        lambda s, q, k: logits(q, k) / math.sqrt(q.shape[1]),  # the number of tokens
        lambda s, q, k: logits(q, k) * (q.shape[-1] / k.shape[-1]),
        lambda s, q, k: logits(q, k) * (3 * q.shape[-1] // k.shape[-1]),
        lambda s, q, k: logits(q, k) * ((q.shape[-1] + k.shape[-1]) / s.q.out_features),
    ],
)
def test_channels_that_no_number_or_a_constant_ratio_counts_are_prunable(
    weights: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> None:
    assert trace(Attention(weights), X).sizes() == {"q": 16, "v": 12}


class Heads(nn.Module):
    """Attention with heads; the scale is that of one head, or of all."""

    def __init__(self, scale: Callable[[Heads, Tensor], float]) -> None:
        super().__init__()
        self.dim, self.heads, self.scale = 16, 4, scale
        self.q, self.k, self.v = (nn.Linear(8, 16) for _ in range(3))
        self.o = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        split = (1, 5, self.heads, self.dim // self.heads)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = (logits(q, k) * self.scale(self, q)).softmax(-1) @ v
        return self.o(x.transpose(1, 2).reshape(1, 5, self.dim))


@pytest.mark.parametrize(
    ("scale", "units"),
    [
        (lambda s, q: q.size(-1) ** -0.5, {"q": 4}),
        (lambda s, q: (s.dim // s.heads) ** -0.5, {"q": 4}),
        (lambda s, q: 1 / math.sqrt(s.dim / s.heads), {"q": 4}),
        (lambda s, q: 1 / math.sqrt(s.dim) * math.sqrt(s.heads), {}),  # a ratio not seen as one
        (lambda s, q: s.dim**-0.5, {}),
        (lambda s, q: s.heads / 2, {}),
    ],
)
def test_the_scale_of_a_head_leaves_heads_prunable(
    scale: Callable[[Heads, Tensor], float], units: dict[str, int]
) -> None:
    assert trace(Heads(scale), X).sizes() == units


def test_a_split_that_a_number_forbids_is_tried_in_another_way() -> None:
    """The code asks for the width of a part: whole parts are pruned."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            x = x.view(1, 5, -1, 3)
            return self.b((x * x.shape[-1] ** -0.5).flatten(2))

    graph = trace(Scaled(), X)
    assert graph.sizes() == {"a": 4}


def test_the_smaller_attention_has_the_scale_of_the_dense_one() -> None:
    """Half of the queries' channels do nothing: without them everything stays as it was."""
    torch.manual_seed(0)
    model = Heads(lambda s, q: q.size(-1) ** -0.5).eval()
    with torch.no_grad():
        for layer in (model.q, model.k, model.v):
            layer.weight[:8] *= 5
            layer.weight[8:] = 0
            layer.bias[8:] = 0
    small, x = prune_model(model, X, 0.5), torch.randn(1, 5, 8)
    assert small.q.out_features == 8
    assert torch.allclose(small(x), model(x), atol=1e-6)


KEPT: list[int] = []


def test_numbers_that_are_kept_from_another_run_say_nothing() -> None:
    def weights(s: nn.Module, q: Tensor, k: Tensor) -> Tensor:
        KEPT.extend((q.shape[-1], s.q.out_features))
        return logits(q, k) / (KEPT[0] * KEPT[1]) ** 0.5

    assert trace(Attention(weights), X).sizes() == {"v": 12}
    assert trace(Attention(weights), X).sizes() == {"q": 16, "v": 12}
