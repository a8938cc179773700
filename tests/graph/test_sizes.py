from __future__ import annotations

import copy
import functools
import operator
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.sizes import Held, Made, Size, holds, mark


def test_products_and_quotients_remember_their_source() -> None:
    width = Size(24, Held("net", "width", (), 24))
    for made, symbol, value in (
        (width * 2, "*", 48),
        (3 * width, "*", 72),
        (width // 5, "//", 4),
    ):
        assert made == value
        assert isinstance(made.source, Made)
        assert made.source.operator == symbol
    assert type(width + 1) is type(1 + width) is int
    wide = width + width // 5
    assert (wide, wide.source.operator, wide.source.left) == (28, "+", width.source)
    assert type(width * 1.5) is float
    assert copy.deepcopy(width) is width
    assert type(pickle.loads(pickle.dumps(width))) is int
    assert {width: 1}[24] == 1


OTHERS = (
    *(8, 2, True, 8.0, 0.5, 0.0, Fraction(1, 2), "a", None, 1j),
    *(np.int64(8), np.int32(2), np.float32(8), np.arange(1, 9), np.ones(3, np.float32)),
    *(torch.arange(1, 9), torch.tensor(8), torch.ones(3)),
)
OPERATORS = """eq ne lt le gt ge add sub mul truediv floordiv mod pow""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("value", [8, 1, 0])
@pytest.mark.filterwarnings("ignore")  # NumPy's divisions by zero
def test_a_number_of_the_model_compares_and_computes_as_an_integer_does(
    name: str, value: int
) -> None:
    def found(compute: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
        try:
            result = compute(one, other)
        except (TypeError, ZeroDivisionError, RuntimeError) as error:
            return type(error)
        return repr(result), type(int(result) if isinstance(result, Size) else result)

    size, compute = Size(value, Held("", "width", (), value)), getattr(operator, name)
    for other in OTHERS:
        assert found(compute, size, other) == found(compute, value, other)
        assert found(compute, other, size) == found(compute, other, value)
    assert [size in torch.tensor(held) for held in ([value, 5], [7])] == [True, False]


class Asking(nn.Module):
    """Decides by what it holds."""

    def __init__(self, agree: Callable[[Any, Tensor], bool]) -> None:
        super().__init__()
        self.heads, self.size, self.width, self.scale, self.pad = 4, 8, 32, 1, 0
        self.q, self.r, self.o = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.agree = agree

    def forward(self, x: Tensor) -> Tensor:
        if not self.agree(self, x):
            raise ValueError("sizes that do not fit")
        return self.o(torch.relu(self.r(torch.relu(self.q(x)))))


@pytest.mark.parametrize(
    "agree",
    [
        lambda net, x: net.size == net.width / net.heads,
        lambda net, x: False if net.scale != 1.0 else True,  # noqa: SIM211
        lambda net, x: net.width == np.int64(32),
        lambda net, x: bool((net.pad != x).any()),
        lambda net, x: net.pad not in x,
    ],
)
def test_code_that_compares_its_numbers_decides_as_without_the_trace(
    agree: Callable[[Any, Tensor], bool],
) -> None:
    assert trace(Asking(agree), torch.ones(2, 10)).sizes() == {"q": 32, "r": 32}


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
