"""Lists of layers without those of which nothing is left."""

from __future__ import annotations

import pytest
import torch
from configured import Block, Config, Net, without
from torch import nn

from autoprune.graph.blocks import Slot
from autoprune.huggingface.layers import without_empty_layers
from autoprune.pruning.configuration import dense_config
from autoprune.pruning.depth import Removed


@pytest.mark.parametrize("places", [(1,), (0, 3), (0, 1, 2)])
def test_empty_layers_leave_the_list_and_the_configuration_counts_the_rest(
    places: tuple[int, ...],
) -> None:
    model = without(*places)
    small = without_empty_layers(model)
    left = [n for n in range(4) if n not in places]
    assert len(small.layers) == small.config.num_hidden_layers == len(left)
    assert dense_config(small).num_hidden_layers == len(left)
    assert [layer.layer_idx for layer in small.layers] == list(range(len(left)))
    assert small.config.layer_kinds == tuple("abcd"[n] for n in left)
    for layer, place in zip(small.layers, left, strict=True):
        assert torch.equal(layer.body.weight, model.layers[place].body.weight)
    assert (len(model.layers), model.config.num_hidden_layers) == (4, 4)  # it is a copy


def test_a_layer_that_still_has_something_stays() -> None:
    model = without(1)
    model.layers[1].register_buffer("scale", torch.ones(1))
    small = without_empty_layers(model)
    assert (len(small.layers), small.config.num_hidden_layers) == (4, 4)
    assert len(without_empty_layers(without()).layers) == 4


class Two(nn.Module):
    """Two lists of equal lengths; each part has a configuration of its own."""

    def __init__(self, config: Both) -> None:
        super().__init__()
        self.config = config
        self.first, self.second = Net(Config(config.num_layers)), Net(Config(config.num_blocks))

    def save_pretrained(self, path: str) -> None:
        """As a model of transformers has it."""


class Both(Config):
    def __init__(self) -> None:
        super().__init__()
        self.num_layers, self.num_blocks = 4, 4


def test_lists_beside_it_are_counted_as_before() -> None:
    model = Two(Both()).eval()
    model.second.layers[1].body = Removed(model.second.layers[1].body, Slot())
    small = without_empty_layers(model)
    assert (len(small.first.layers), len(small.second.layers)) == (4, 3)
    assert (small.config.num_layers, small.config.num_blocks) == (4, 3)
    assert (small.first.config.num_hidden_layers, small.second.config.num_hidden_layers) == (4, 3)


class Uncounted(Net):
    """Its list has a length of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config.width, n) for n in range(4))


def test_without_a_configuration_that_counts_them_layers_stay() -> None:
    model = Uncounted(Config()).eval()
    model.layers[2].body = Removed(model.layers[2].body, Slot())
    small = without_empty_layers(model)
    assert (len(small.layers), small.config.num_hidden_layers) == (4, 4)
