"""Views: reshapes, transposes, and dimensions of size 1."""

from __future__ import annotations

import copy

import pytest
import torch
from models.through import Function, of_features, of_images, reason_of, units_of
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.masks import masked
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable

SAME: dict[str, Function] = {
    "flatten positions and back": lambda x: x.flatten(0, 1).view(x.shape[0], -1, x.shape[-1]),
    "unsqueeze and squeeze": lambda x: x.unsqueeze(1).relu().squeeze(1),
    "transpose twice": lambda x: x.transpose(1, 2).relu().transpose(1, 2),
    "t of a matrix": lambda x: x[:, 0].t().relu().t(),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1),
    "contiguous": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "movedim": lambda x: x.movedim(-1, 0).relu().movedim(0, -1),
    "view as": lambda x: x.flatten().view_as(x),
}


@pytest.mark.parametrize("name", SAME)
def test_views_carry_channels(name: str) -> None:
    assert units_of(of_features(SAME[name])) == 8


def test_channels_times_positions_are_flattened() -> None:
    assert units_of(of_images(lambda x: F.avg_pool2d(x, 3).flatten(1))) == 8
    assert units_of(of_images(lambda x: F.avg_pool2d(x, 3).permute(0, 2, 3, 1).flatten(1))) == 8


def test_a_split_dimension_is_pruned_in_its_parts() -> None:
    def heads(x):
        return x.unflatten(-1, (-1, 4)).softmax(-1).flatten(-2)

    assert units_of(of_features(heads)) == 2  # whole heads: the softmax goes over what is inside


class Involution(nn.Module):
    """A kernel for each pixel and group of channels (Li et al. 2021, arXiv:2103.06255)."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.width = 2, 4
        self.stem, self.kernel = nn.Conv2d(3, 8, 1), nn.Linear(8, 2 * 9)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        kernel = self.kernel(x.mean((2, 3))).view(batch, self.groups, 1, 9, 1)
        pixels = F.unfold(x, 3, padding=1)
        pixels = pixels.view(batch, self.groups, self.width, 9, height * width)
        return self.head((kernel * pixels).sum(3).view(batch, -1, height, width))


def test_neighborhoods_of_channels_in_groups_are_pruned_by_the_place_in_the_group() -> None:
    torch.manual_seed(0)
    net, x = Involution().eval(), torch.randn(2, 3, 5, 5)
    graph = prunable(net, x)
    assert graph.sizes() == {"stem": 4}
    small = copy.deepcopy(net)
    prune(small, graph, {"stem": [0, 2, 3]})
    assert (small.groups, small.width, small.stem.out_channels) == (2, 3, 6)
    torch.testing.assert_close(small(x), masked(net, graph, {"stem": [0, 2, 3]})(x))


class DynamicReLU(nn.Module):
    """Slopes and offsets of each channel from one layer (Chen et al. 2020, Dynamic ReLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.lines = 8, 2
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.slopes = nn.Linear(8, 2 * 2 * 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        lines = self.slopes(x.mean((2, 3))).view(-1, self.channels, 2 * self.lines)
        x = x.permute(2, 3, 0, 1).unsqueeze(-1)
        x = x * lines[:, :, : self.lines] + lines[:, :, self.lines :]
        return self.head(x.amax(-1).permute(2, 3, 0, 1))


def test_a_split_has_its_ids_in_the_part_that_meets_channels() -> None:
    torch.manual_seed(0)
    net, x = DynamicReLU().eval(), torch.randn(2, 3, 4, 4)
    graph = prunable(net, x)
    assert graph.sizes() == {"stem": 8}
    small = copy.deepcopy(net)
    prune(small, graph, {"stem": [0, 2, 5]})
    assert (small.channels, small.lines, small.slopes.out_features) == (3, 2, 12)
    torch.testing.assert_close(small(x), masked(net, graph, {"stem": [0, 2, 5]})(x))


def test_a_literal_size_is_verified() -> None:
    """`view(-1, 8)` cannot follow; the smaller model would fail."""
    graph = of_features(lambda x: x.reshape(-1, 8).view(2, 5, 8))
    assert units_of(graph) == 0


def test_the_order_of_channels_may_change_within_a_known_size() -> None:
    def shuffled(x):
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2)
        return x.reshape(n, channels, height, width)

    assert units_of(of_images(shuffled)) == 4


def turned(x: Tensor) -> Tensor:
    """Each channel with itself as a complex number, turned by the position."""
    angles = torch.arange(x.shape[1])[:, None].expand(-1, x.shape[-1]).float()
    pairs = torch.complex(x, x) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs.conj().resolve_conj())[..., 0]


def test_complex_numbers_carry_channels() -> None:
    assert units_of(of_features(turned)) == 8
    assert (
        units_of(of_features(lambda x: torch.view_as_complex(x.unflatten(-1, (-1, 2))).abs())) == 4
    )


def test_what_an_integer_does_to_zeros_says_nothing_of_other_numbers() -> None:
    def moved(number: Tensor) -> Function:
        return lambda x: torch.cdist(x + number, x + number)

    of_features(moved(torch.zeros(1, dtype=torch.int64)))
    assert "not zero" in reason_of(of_features(moved(torch.tensor([1.5]))))


def test_channels_that_a_complex_number_was_added_to_are_not_zero() -> None:
    def shifted(x: Tensor) -> Tensor:
        x = (torch.complex(x, x) + torch.tensor([1.0 + 2.0j])).abs()
        return torch.cdist(x, x)

    assert "not zero" in reason_of(of_features(shifted))


class Rotary(nn.Module):
    """Attention whose positions turn pairs of features as complex numbers (Llama's first code)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 8
        self.q, self.k, self.v = (nn.Linear(6, 32) for _ in range(3))
        self.out = nn.Linear(32, 3)
        angles = torch.outer(torch.arange(9.0), 100 ** (-torch.arange(4) / 4))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def turn(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns[: x.shape[1], None]).flatten(3).type_as(x)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = (f(x).view(batch, count, self.heads, -1) for f in (self.q, self.k, self.v))
        q, k, v = (y.transpose(1, 2) for y in (self.turn(q), self.turn(k), v))
        y = (q @ k.mT / self.width**0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def test_heads_stay_prunable_where_positions_turn_complex_pairs() -> None:
    torch.manual_seed(0)
    model, x = Rotary().eval(), torch.randn(2, 5, 6)
    graph = prunable(model, x)
    assert graph.sizes() == {"q": 4}
    small = copy.deepcopy(model)
    prune(small, graph, {"q": [0, 3]})
    assert small.q.weight.shape == (16, 6)
    torch.testing.assert_close(small(x), masked(model, graph, {"q": [0, 3]})(x))
