from __future__ import annotations

import numpy as np
import pytest
import torch
from models.cutting import gap, random_keep
from models.zoo import settled
from models.zoo_hard import ChannelNeighbors, image
from torch import nn

from autoprune.errors import GraphError
from autoprune.graph.replica import replica
from autoprune.pruning.masks import masked
from autoprune.pruning.sliding import SlidingConv1d, SlidingLocalResponseNorm, keep_positions
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable


def sliding(size: int, kept: list[int]) -> nn.Conv1d:
    torch.manual_seed(0)
    layer = nn.Conv1d(1, 2, 3, padding=1)
    keep_positions(layer, size, np.array(kept))
    return layer


def test_pruned_positions_are_zeros() -> None:
    layer, x = sliding(6, [0, 2, 3]), torch.randn(4, 1, 3)
    dense = torch.zeros(4, 1, 6)
    dense[..., [0, 2, 3]] = x
    wanted = nn.functional.conv1d(dense, layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(x), wanted[..., [0, 2, 3]])


def test_positions_can_be_pruned_again() -> None:
    layer = sliding(6, [0, 2, 3])
    keep_positions(layer, 3, np.array([0, 2]))
    assert isinstance(layer, SlidingConv1d)
    assert layer.positions.tolist() == [0, 3]
    assert layer.source.tolist() == [0, 2, 2, 1, 2, 2]


def test_the_state_is_that_of_the_layer() -> None:
    assert sliding(6, [0, 2, 3]).state_dict().keys() == {"weight", "bias"}


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 3), sliding(6, [0, 2, 3])])
def test_another_layer_is_refused(layer: nn.Module) -> None:
    with pytest.raises(GraphError, match="a Conv1d or a LocalResponseNorm over 4 channels"):
        keep_positions(layer, 4, np.array([0, 2]))


@pytest.mark.parametrize("dims", [1, 2])
def test_a_local_response_norm_sums_over_the_channels_of_the_dense_layer(dims: int) -> None:
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d)[dims - 1]
    norm = nn.LocalResponseNorm(3, alpha=2.0)
    model, x = nn.Sequential(conv(3, 8, 1), norm, conv(8, 4, 1)), torch.randn(2, 3, *[5] * dims)
    graph = prunable(model, x)
    assert graph.sizes() == {"0": 8}
    assert gap(model, graph, {"0": [0, 1, 3, 6]}, x, train=True) < 1e-9
    small = replica(model)
    prune(small, graph, {"0": [0, 1, 3, 6]})
    assert isinstance(small[1], SlidingLocalResponseNorm)
    channels = small[0](x)  # by hand: the last has no neighbor left, the first two have each other
    near = channels.square() + channels.square().roll([1], 1)
    near[:, 0] = channels[:, :2].square().sum(1)
    near[:, 2:] = channels[:, 2:].square()
    torch.testing.assert_close(small[1](channels), channels / (near * 2 / 3 + 1) ** 0.75)


def test_channels_go_twice_and_with_their_block() -> None:
    torch.manual_seed(0)
    model, x = settled(ChannelNeighbors()), image(2)
    graph = prunable(model, x)
    keep = random_keep(graph, 1)
    small = replica(model)
    smaller_graph = prune(small, graph, keep)
    again = random_keep(smaller_graph, 2)
    both = {name: [keep[name][unit] for unit in units] for name, units in again.items()}
    prune(small, smaller_graph, again)
    assert torch.allclose(small(x), masked(model, graph, both)(x), atol=1e-5)
    (block,) = graph.blocks
    assert set(block.tensors) >= {"inner.weight", "inner.positions"}
    assert "inner.positions" not in graph.without([block.name]).positions
    assert gap(model, graph, keep, x, train=False) < 1e-9


def test_a_model_that_does_not_fit_is_left_as_it_is() -> None:
    model, x = settled(ChannelNeighbors()), image(2)
    graph = prunable(model, x)
    model.inner = nn.Identity()
    before = [tuple(parameter.shape) for parameter in model.parameters()]
    with pytest.raises(GraphError, match="Conv1d or a LocalResponseNorm over 12 channels"):
        prune(model, graph, random_keep(graph, 1))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == before
