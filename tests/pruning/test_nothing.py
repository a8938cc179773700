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
        1.0 / EMPTY,
        EMPTY > 0,
        EMPTY == 0,
        torch.where(EMPTY > 0, EMPTY, 0.1 * EMPTY),
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


def test_it_has_the_type_and_the_device_of_the_tensor_in_whose_place_it_stands() -> None:
    empty = nothing(2, torch.int64, torch.device("meta"))
    assert empty is nothing(2, torch.int64, torch.device("meta")) is not EMPTY
    part = empty.unsqueeze(0)[0].flatten()
    assert (part.ndim, part.dtype, part.device.type) == (1, torch.int64, "meta")
    assert not torch.is_floating_point(empty)
    assert EMPTY.is_floating_point()
    assert pickle.loads(pickle.dumps(empty)) is empty


PARTS: list[tuple[Callable[[Any], Any], int]] = [
    (lambda x: x.chunk(3, -1), 3),
    (lambda x: torch.chunk(x, chunks=3, dim=0), 3),
    (lambda x: x.split([1, 2, 4]), 3),
    (lambda x: torch.split_with_sizes(x, (1, 2, 4), 1), 3),
    (lambda x: x.tensor_split(3, 1), 3),
    (lambda x: x.tensor_split((1, 2), 1), 3),
    (lambda x: x.split(16, -1), 3),
    (lambda x: torch.split(x, 16), 3),
    (lambda x: x.unbind(1), 2),
    (lambda x: x.view(1, 1, 1, 1).permute(2, 0, 1, 3), 3),
]


@pytest.mark.parametrize(("cut", "ndim"), PARTS)
def test_it_is_unpacked_into_as_many_parts_as_the_code_names(
    cut: Callable[[Any], Any], ndim: int
) -> None:
    q, k, v = cut(nothing(3))
    assert q is k is v is nothing(ndim)


@pytest.mark.parametrize("parts", [lambda x: x, lambda x: x.unbind(1), lambda x: x.split(4)])
def test_code_that_goes_through_it_finds_one_part(parts: Callable[[Any], Any]) -> None:
    found = parts(nothing(3))
    assert len(list(found)) == len([part for part in found]) == len(found) == 1  # noqa: C416
    assert len(list(reversed(found))) == 1
    assert found[5] is found[0] is next(iter(found))
    assert torch.stack(found) is not None


def test_it_ends_where_a_tensor_without_dimensions_does() -> None:
    for ask in (len, list):
        with pytest.raises(TypeError, match="0-d"):
            ask(nothing(0))


@pytest.mark.parametrize(
    "asked",
    [
        bool,
        lambda x: bool((x > 0).any()),
        lambda x: x == 0 or x,
        lambda x: 0 in x,
        lambda x: int(x.sum()),
        lambda x: float(x.item()),
        lambda x: range(x.max()),
    ],
)
def test_it_has_no_value_to_decide_by(asked: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        asked(EMPTY)


def test_it_has_what_a_tensor_has_and_no_more() -> None:
    assert not hasattr(EMPTY, "module")  # code unwraps what has one
    assert EMPTY.grad_fn is EMPTY._base is EMPTY.grad is None
    assert EMPTY.is_contiguous()
    assert not EMPTY.requires_grad
    assert [EMPTY.is_cuda, EMPTY.is_cpu, EMPTY.is_sparse, EMPTY.is_nested] == [False, True] + 2 * [
        False
    ]
    assert nothing(2, device=torch.device("cuda")).is_cuda
    assert EMPTY.real.T.data is EMPTY
    with pytest.raises(AttributeError):
        EMPTY.mark = 1
    EMPTY[0] = 1.0


class Steps(nn.Module):
    """A branch whose code goes through the time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        steps = [torch.relu(step) for step in self.enter(x).unbind(1)]
        states = [0.0]
        for step in torch.stack(steps, 1).transpose(0, 1):
            states.append(torch.tanh(step + 0.5 * states[-1]))
        return x + self.leave(torch.stack(states[1:], 1))


class Fused(nn.Module):
    """Attention whose projections are one layer, cut in the block's own code."""

    def __init__(self, cut: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.cut, self.qkv, self.out = cut, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.cut(self.qkv(x))
        q, k, v = (y.view(*y.shape[:2], 2, -1).transpose(1, 2) for y in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "block",
    [
        Steps(),
        Fused(lambda y: y.chunk(3, -1)),
        Fused(lambda y: y.split(8, -1)),
        Fused(lambda y: y.view(2, 5, 3, 8).unbind(2)),
        Fused(lambda y: y.view(2, 5, 3, 8).permute(2, 0, 1, 3)),
    ],
)
def test_a_branch_whose_code_goes_through_parts_can_be_dropped(block: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), block, nn.Linear(8, 2)), torch.randn(2, 5, 3)
    graph = prunable(model.eval(), x)
    assert [block.name for block in graph.blocks] == ["1"]
    small = copy.deepcopy(model)
    drop(small, graph, ["1"])
    wanted = model[2](model[0](x))
    assert torch.equal(small(x), wanted)
    assert torch.equal(torch.export.export(small, (x,)).module()(x), wanted)


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
