from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models.cutting import gap
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import trace
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable


class Uses(nn.Module):
    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.use = nn.Linear(4, 8), nn.Linear(8, 3), use

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(self.use(x, x.mean(-1, keepdim=True)))


@pytest.mark.parametrize(
    "use",
    [
        lambda x, mean: x - mean,
        lambda x, mean: x / (mean.abs() + 1.0),
        lambda x, mean: x * (mean.square() + 1.0).rsqrt(),
        lambda x, mean: x * (1.0 / (mean + 9.0)),
        lambda x, mean: x - mean.expand_as(x),
    ],
)
def test_a_mean_that_centers_or_scales_leaves_channels_free(
    use: Callable[[Tensor, Tensor], Tensor],
) -> None:
    graph = trace(Uses(use), torch.randn(5, 4))
    assert graph.sizes() == {"a": 8}
    assert graph.averages


@pytest.mark.parametrize(
    "use",
    [
        lambda x, mean: x * mean,
        lambda x, mean: x * mean.sigmoid(),
        lambda x, mean: x + mean,
        lambda x, mean: mean / (x.abs() + 1.0),
        lambda x, mean: torch.where(mean > 0, x, -x),
    ],
)
def test_a_mean_that_is_a_value_of_its_own_keeps_the_channels_whole(
    use: Callable[[Tensor, Tensor], Tensor],
) -> None:
    graph = trace(Uses(use), torch.randn(5, 4))
    assert not graph.groups
    assert graph.frozen[0].reason == "mean over channels"


class Read(nn.Module):
    """A layer reads what is taken over the channels."""

    def __init__(self, use: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.a, self.read, self.use = nn.Linear(4, 8), nn.Linear(features, 3), use

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.use(self.a(x)))


@pytest.mark.parametrize(
    ("use", "features"),
    [
        (lambda x: x.mean(-1, keepdim=True), 1),
        (lambda x: torch.cat([x.mean(-1, keepdim=True), x.amax(-1, keepdim=True)], -1), 2),
        (lambda x: x.std(-1, keepdim=True).sqrt() * x.amin(-1, keepdim=True), 1),
        (lambda x: torch.stack([x.mean(-1), (x * x).mean(-1)], -1), 2),  # correlation (stereo)
        (lambda x: torch.cat([x, x.mean(-1, keepdim=True), x.sum(-1, keepdim=True)], -1), 10),
        (lambda x: F.interpolate(F.avg_pool2d(x.mean(-1).view(5, 1, 1, 1), 1), 2).flatten(1), 4),
        (lambda x: F.pad(x.mean(-1, keepdim=True), (1, 0)).repeat(1, 2)[:, 1:], 3),
    ],
)
def test_a_statistic_that_a_layer_reads_is_taken_over_the_kept_channels(
    use: Callable[[Tensor], Tensor], features: int
) -> None:
    model, x = Read(use, features), torch.randn(5, 4)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 8}
    assert gap(model.double(), graph, {"a": [1, 4, 6]}, x, train=False) < 1e-9


@pytest.mark.parametrize(
    "use",
    [
        lambda x: torch.relu(x.mean(-1, keepdim=True)).expand(-1, 9),
        lambda x: torch.cat([x, x.mean(-1, keepdim=True)], -1).sigmoid(),
        lambda x: x[..., -1:].expand(-1, 9) + x[:, 0, None],
    ],
)
def test_nothing_may_change_a_statistic_before_a_layer_reads_it(
    use: Callable[[Tensor], Tensor],
) -> None:
    assert not trace(Read(use, 9), torch.randn(5, 4)).groups


class Scaled(nn.Module):
    """Divided by the largest channel, as before int8 arithmetic."""

    def __init__(self, largest: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.largest = nn.Linear(4, 8), nn.Linear(8, 3), largest

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(torch.tanh(x / self.largest(x)))


@pytest.mark.parametrize(
    "largest",
    [
        lambda x: x.abs().amax(-1, keepdim=True),
        lambda x: x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5),
        lambda x: (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)) / 127,
    ],
)
def test_an_extreme_that_scales_is_taken_over_the_kept_channels(
    largest: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model, x = Scaled(largest).eval(), torch.randn(5, 4)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 8}
    assert gap(model, graph, {"a": [1, 4, 6]}, x, train=False) < 1e-9
    hidden = model.a(x)[:, [1, 4, 6]]  # by hand
    wanted = torch.tanh(hidden / largest(hidden)) @ model.b.weight[:, [1, 4, 6]].T + model.b.bias
    prune(model, graph, {"a": [1, 4, 6]})
    torch.testing.assert_close(model(x), wanted)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x * x.amax(-1, keepdim=True).sigmoid(),
        lambda x: x + x.max(-1, keepdim=True).indices,
        lambda x: torch.cat([x.amax(-1, True)] * 8, -1).sigmoid(),
        lambda x: torch.maximum(x, x.min(-1, True).values + 1.0),
    ],
)
def test_an_extreme_that_is_a_value_of_its_own_keeps_the_channels_whole(
    use: Callable[[Tensor], Tensor],
) -> None:
    graph = trace(Uses(lambda x, mean: use(x)), torch.randn(5, 4))
    assert not graph.groups
    assert "over channels" in graph.frozen[0].reason


def test_a_position_that_is_picked_for_its_shape_leaves_the_channels_free() -> None:
    class Positions(nn.Module):
        def __init__(self, *, used: bool) -> None:
            super().__init__()
            self.a, self.b, self.used = nn.Linear(4, 8), nn.Linear(8, 3), used

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            first = x[:, :, -1]
            places = torch.arange(first.shape[1]) * 0.1
            return self.b(x + places[:, None] * (first[..., None] if self.used else 1.0))

    assert trace(Positions(used=False), torch.randn(2, 5, 4)).sizes() == {"a": 8}
    graph = trace(Positions(used=True), torch.randn(2, 5, 4))
    assert not graph.groups
    assert graph.frozen[0].reason == "is indexed by position"


class Attending(nn.Module):
    """Attention of which the weights, averaged over heads, are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.b = nn.Linear(6, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x)
        y, weights = self.m(h, h, h)
        return self.b(y), weights


def test_the_mean_of_attention_weights_is_the_reason_for_heads() -> None:
    graph = prunable(Attending(), torch.randn(5, 2, 6))
    assert graph.sizes() == {"m.out_proj": 16}
    reasons = {f.name: f.reason for f in graph.frozen}
    assert reasons["a"] == reasons["m"] == "mean over attention heads in m"
