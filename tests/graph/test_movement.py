"""Data movement: channels that are concatenated, cut, split, shifted, repeated or shuffled."""

from __future__ import annotations

import pytest
import torch
from models.cutting import gap, random_keep
from models.through import Function, of_features, of_images, reason_of, units_of
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.graph import Frozen
from autoprune.pruning.verification import prunable

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


class SeparableAttention(nn.Module):
    """One score for each position, keys and values (Mehta & Rastegari 2022, MobileViTv2)."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.stem = 8, nn.Conv2d(3, 8, 1)
        self.mixed, self.out = nn.Conv2d(8, 1 + 2 * 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixed(self.stem(x).flatten(2).unsqueeze(2))
        score, key, value = torch.split(mixed, [1, self.width, self.width], dim=1)
        context = (key * score.softmax(-1)).sum(-1, keepdim=True)
        return self.out(value.relu() * context)


def test_parts_of_a_known_size_beside_a_literal_one_are_pruned() -> None:
    torch.manual_seed(0)
    model, x = SeparableAttention(), torch.randn(2, 3, 4, 4)
    graph = prunable(model, x)
    assert graph.sizes() == {"stem": 8, "mixed": 8}
    assert Frozen("mixed", 1, "is split into parts of fixed sizes") in graph.frozen
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9


def test_channels_before_a_literal_bound_are_not_prunable() -> None:
    assert units_of(of_features(lambda x: x[..., :4])) == 4  # those after it are not used
    assert units_of(of_features(lambda x: x[..., 4:])) == 4


HALVES: dict[str, Function] = {
    "narrow": lambda x: (
        x.narrow(-1, 0, x.shape[-1] // 2) * x.narrow(-1, x.shape[-1] // 2, x.shape[-1] // 2)
    ),
    "narrow by name": lambda x: torch.narrow(
        x, dim=-1, start=x.shape[-1] // 2, length=x.shape[-1] // 2
    ),
    "bounds": lambda x: torch.mul(*x.tensor_split((x.shape[-1] // 2,), -1)),
    "bounds by name": lambda x: torch.mul(
        *torch.tensor_split(x, indices=[x.shape[-1] // 2], dim=-1)
    ),
    "sections": lambda x: torch.mul(*x.tensor_split(2, -1)),
    "slices": lambda x: x[..., : x.shape[-1] // 2] * x[..., x.shape[-1] // 2 :],
}


@pytest.mark.parametrize("name", HALVES)
def test_the_halves_of_a_size_are_pruned_together(name: str) -> None:
    assert units_of(of_features(HALVES[name])) == 4


def test_parts_between_literal_bounds_are_not_prunable() -> None:
    assert units_of(of_features(lambda x: x.narrow(-1, 0, 3))) == 5  # what is not used
    assert units_of(of_features(lambda x: torch.tensor_split(x, (3,), -1)[0])) == 5
    assert units_of(of_features(lambda x: x.tensor_split(3, -1)[0])) == 2  # of 3, 3 and 2


def test_more_than_two_equal_sections_are_pruned_together() -> None:
    assert units_of(of_features(lambda x: torch.cat(x.tensor_split(4, 2)[::-1], 2))) == 2


def test_an_assignment_to_a_slice_that_ends_at_a_size_ties_what_is_assigned() -> None:
    def doubled(x):
        batch, channels, height, width = x.shape
        both = x.new_zeros(batch, 2 * channels, height, width)
        both[:, :channels] = x
        both[:, channels:] = x.flip(-1)
        return both

    assert units_of(of_images(doubled)) == 8


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
