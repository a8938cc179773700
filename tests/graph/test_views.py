"""Views: reshapes, transposes, and dimensions of size 1."""

from __future__ import annotations

import pytest
from models.through import Function, of_features, of_images, units_of
from torch.nn import functional as F

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
