"""Data movement: channels that are concatenated, cut, split, shifted, repeated or shuffled."""

from __future__ import annotations

import pytest
import torch
from models.through import Function, of_features, of_images, reason_of, units_of
from torch import nn
from torch.nn import functional as F

WHOLE: dict[str, Function] = {
    "concatenation with itself": lambda x: torch.cat((x, x.relu()), -1),
    "stack": lambda x: torch.stack((x, x.relu()), 1).sum(1),
    "all of a slice": lambda x: x[..., :],
    "slice of positions": lambda x: x[:, 1:4],
    "one position": lambda x: x[:, 0],
    "padding of positions": lambda x: F.pad(x, (0, 0, 1, 1)),
    "shift of positions": lambda x: x.roll(1, 1),
    "repeat": lambda x: x.repeat(1, 1, 2),
    "flip of positions": lambda x: x.flip(1),
    "split into ones": lambda x: sum(x.unbind(1)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_movement_that_keeps_every_channel(name: str) -> None:
    assert units_of(of_features(WHOLE[name])) == 8


def test_new_channels_of_padding_are_fixed() -> None:
    assert units_of(of_features(lambda x: F.pad(x, (1, 2)))) == 8


def test_equal_parts_are_pruned_together() -> None:
    def halves(x):
        first, second = x.chunk(2, -1)
        return first * second

    assert units_of(of_features(halves)) == 4


def test_parts_of_literal_sizes_are_not_prunable() -> None:
    graph = of_features(lambda x: torch.cat(x.split([3, 5], -1)[::-1], -1))
    assert units_of(graph) == 0
    assert "split" in reason_of(graph) or "size" in reason_of(graph)


def test_channels_before_a_literal_bound_are_not_prunable() -> None:
    assert units_of(of_features(lambda x: x[..., :4])) == 4  # those after it are not used
    assert units_of(of_features(lambda x: x[..., 4:])) == 4


def test_a_channel_selected_by_its_place_keeps_those_before_it() -> None:
    assert units_of(of_features(lambda x: x * x[..., 2:3])) == 5


def test_a_shift_along_channels_is_not_prunable() -> None:
    assert units_of(of_features(lambda x: x.roll(1, -1))) == 0


def test_shuffled_pixels_take_bundles_of_channels() -> None:
    assert units_of(of_images(lambda x: F.pixel_shuffle(x, 2))) == 2
    assert units_of(of_images(lambda x: F.pixel_unshuffle(x, 2))) == 8


def test_the_shuffle_of_channels_keeps_groups_even() -> None:
    def shuffled(x):
        n, channels, height, width = x.shape
        return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)

    assert units_of(of_images(shuffled)) == 4


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_channel_shuffle_takes_a_channel_of_every_group(groups: int) -> None:
    assert units_of(of_images(lambda x: torch.channel_shuffle(x, groups))) == 8 // groups
    assert units_of(of_images(nn.ChannelShuffle(groups))) == 8 // groups


def test_a_channel_shuffle_with_a_group_for_each_channel_keeps_all() -> None:
    graph = of_images(lambda x: torch.channel_shuffle(x, 8))
    assert units_of(graph) == 0
    assert reason_of(graph) == "its channels can only be pruned all together"


def test_two_channel_shuffles_tie_what_both_tie() -> None:
    def twice(x):
        return F.channel_shuffle(F.channel_shuffle(x, 2).relu(), 2)

    assert units_of(of_images(twice)) == 2


def test_a_channel_axis_may_lie_anywhere() -> None:
    assert units_of(of_images(lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2))) == 8
