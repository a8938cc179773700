"""What stands in for the output of a dropped branch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.pruning.depth import drop
from autoprune.pruning.nothing import Nothing, nothing
from autoprune.pruning.verification import prunable

EMPTY = nothing(2)


def test_it_is_neutral_in_sums_and_absorbs_the_rest() -> None:
    x = torch.randn(3)
    for found in (x + EMPTY, EMPTY + x, x - EMPTY, torch.add(x, EMPTY)):
        assert found is x
    for negated in (EMPTY - x, torch.sub(EMPTY, x)):
        assert torch.equal(negated, -x)
    for absorbed in (
        EMPTY - EMPTY,
        EMPTY - 1.0,
        1.0 - EMPTY,
        EMPTY - nn.Parameter(x),
        nn.Parameter(x) - EMPTY,
        EMPTY * x,
        x * EMPTY,
        torch.relu(EMPTY),
        torch.cat([x, EMPTY]),
        EMPTY.view(1, -1).transpose(0, 1),
        EMPTY + nn.Parameter(x),
        EMPTY + 1.0,
        EMPTY @ x,
    ):
        assert absorbed is EMPTY


def test_there_is_one_for_each_number_of_dimensions() -> None:
    assert copy.deepcopy(EMPTY) is EMPTY is pickle.loads(pickle.dumps(EMPTY))
    assert nothing(3) is not EMPTY


SHAPING: list[Callable[[Any], Any]] = [
    lambda x: x.view(-1, 1, 1, 1),
    lambda x: x.view((1, 1)),
    lambda x: torch.reshape(x, (1, 1, 1, 1, 1)),
    lambda x: x.reshape(shape=(1,)),
    lambda x: x.view(torch.int32),
    lambda x: x.expand(2, -1, -1, -1),
    lambda x: x.flatten(),
    lambda x: x.flatten(1),
    lambda x: torch.flatten(x, start_dim=0, end_dim=1),
    lambda x: x.unsqueeze(0),
    lambda x: torch.unsqueeze(x, 1),
    lambda x: x[0],
    lambda x: x[:, None, :1, 0],
    lambda x: x[..., 0],
    lambda x: x.permute(2, 0, 1),
    lambda x: torch.roll(x, shifts=(1, 1), dims=(0, 1)),
    lambda x: nn.functional.pad(x, (0, 1)),
    lambda x: x.transpose(1, 2).contiguous(),
]


@pytest.mark.parametrize("shaping", SHAPING)
def test_it_has_as_many_dimensions_as_a_tensor_in_its_place(
    shaping: Callable[[Any], Any],
) -> None:
    tensor, empty = shaping(torch.zeros(1, 1, 1)), shaping(nothing(3))
    assert isinstance(empty, Nothing)
    assert (empty.dim(), len(empty.shape), empty.size(0)) == (tensor.dim(), tensor.dim(), 1)


class Windows(nn.Module):
    """Attention within windows, whose code unpacks shapes between the modules of the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def windowed(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = torch.roll(x, (1, 1), (1, 2)).view(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        _windows, _places, channels = x.shape
        mixed = self.mix(x).view(batch, height // 2, width // 2, 2, 2, channels)
        return mixed.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.windowed(self.norm(x))


def test_a_branch_whose_code_unpacks_shapes_can_be_dropped() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), Windows(), nn.Linear(8, 2)), torch.randn(1, 4, 4, 3)
    graph = prunable(model.eval(), x)
    assert [block.name for block in graph.blocks] == ["1"]
    drop(model, graph, ["1"])
    assert torch.equal(model(x), model[2](model[0](x)))
