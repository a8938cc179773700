from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.sizes import Held, Made, Size, holds, mark


def test_products_and_quotients_remember_their_source() -> None:
    width = Size(24, Held("net", "width", (), 24))
    for made, operator, value in (
        (width * 2, "*", 48),
        (3 * width, "*", 72),
        (width // 5, "//", 4),
    ):
        assert made == value
        assert isinstance(made.source, Made)
        assert made.source.operator == operator
    assert type(width + 1) is int
    assert type(width * 1.5) is float
    assert copy.deepcopy(width) is width
    assert type(pickle.loads(pickle.dumps(width))) is int
    assert {width: 1}[24] == 1


@functools.lru_cache
def recipe(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    """Sizes that are worked out once and kept."""
    return (*shape[:2], heads, shape[2] // heads)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(10, 32) for _ in range(3))
        self.o, self.heads = nn.Linear(32, 3), 4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x) for f in (self.q, self.k, self.v))
        q, k, v = (y.view(recipe(y.shape, self.heads)).transpose(1, 2) for y in (q, k, v))
        return self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_numbers_that_are_kept_from_another_run_mislead_nobody() -> None:
    recipe.cache_clear()
    x = torch.randn(2, 5, 10)
    first, second = trace(Attention(), x), trace(Attention(), x)
    assert first.sizes() == second.sizes() == {"q": 4}
    (held,) = {(a.name, a.dims[0].per_unit["q"]) for a in second.attributes if a.module == ""}
    assert held == ("heads", 1)


@pytest.mark.parametrize("now", [(), (4,), 4, {}, "wide", None])
def test_a_number_of_another_model_is_not_held_by_this_one(now: object) -> None:
    net = nn.Module()
    net.widths = (4, 8)
    mark(net)
    (held,) = {width.source for width in net.widths[1:]}
    assert holds(net, held)
    other = nn.Module()
    other.widths = now
    mark(other)
    assert not holds(other, held)
    assert not holds(None, held)


def test_a_size_that_a_fixed_dimension_takes_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.a(x)
            return self.b(hidden) + x.view(hidden.shape[1], -1).sum()

    (frozen, _) = trace(Net(), torch.randn(3, 4)).frozen
    assert (frozen.name, frozen.reason) == ("a", "gives a dimension of fixed size its size")


@pytest.mark.parametrize("held", [(16,), [16], {"width": 16}])
def test_the_integers_of_the_given_model_stay_plain(held: object) -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    net.held = held
    trace(net, torch.zeros(1, 4))
    values = held.values() if isinstance(held, dict) else held
    assert [type(value) for value in values] == [int]
    assert net.held is held
