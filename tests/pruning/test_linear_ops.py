"""Rows times weights are the outputs, for every kind of product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.linear_ops import (
    LinearOp,
    LinearOpMode,
    NormTracker,
    as_matrix,
    in_shape,
    places_of,
)


class Seen(LinearOpMode):
    """Keeps each product with its result, and follows norms."""

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__(model)
        self.size = samples
        self.products: list[tuple[LinearOp | None, Tensor]] = []
        self.norms = NormTracker()
        self.paths: list[str | None] = []

    def on_linear_op(self, func: Any, args: Any, product: LinearOp | None, x: Tensor) -> Any:
        out = func(*args)
        self.norms.used_by(x)
        self.products.append((product, out))
        if product is not None:
            self.norms.produced(out, product.name)
        return out

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        self.norms.used_by(args[0], path)
        self.paths.append(path)
        return func(*args, **kwargs)

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.norms.used_by((args, kwargs))
        return func(*args, **kwargs)


def watched(model: nn.Module, x: Tensor) -> Seen:
    seen = Seen(model.eval(), len(x))
    with torch.no_grad(), seen:
        model(x)
    return seen


def check(model: nn.Module, x: Tensor) -> LinearOp:
    """Every row of inputs times the weight is the output at its place."""
    ((product, out),) = watched(model, x).products
    assert product is not None
    places = torch.arange(product.items * product.positions)
    rows, outputs = product.rows(places), product.outputs(out, places)
    weight = dict(model.named_parameters())[product.name].detach()
    weight = weight if product.input_dim == 1 else weight.transpose(0, 1)
    parts = weight.flatten(1).chunk(product.blocks)
    found = torch.cat([r @ w.T for r, w in zip(rows, parts, strict=True)], dim=1)
    if product.bias is not None:
        found = found + dict(model.named_parameters())[product.bias].detach()
    assert (product.items, product.inputs) == (len(x), rows.shape[2])
    torch.testing.assert_close(found, outputs, rtol=1e-4, atol=1e-5)
    some = places[::3]
    assert torch.equal(product.rows(some), rows[:, ::3])
    assert torch.equal(product.outputs(out, some), outputs[::3])
    return product


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(0, 1)), (2, 4, 6, 5)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 3, 4)),
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=2, bias=False), (2, 2, 7, 6)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (2, 6, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        (2, 4, 4, 5),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), (2, 2, 3, 3, 4)),
    "pointwise": (lambda: nn.Conv2d(4, 5, 1), (3, 4, 3, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_multiplies_its_patches(name: str) -> None:
    torch.manual_seed(0)
    build, shape = CONVOLUTIONS[name]
    model, x = build(), torch.randn(shape)
    product = check(model, x)
    assert product.blocks == getattr(model, "groups", 1)
    assert product.spots() == tuple(model(x).shape[2:])


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (4, 3, 2, 5)])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_matrix_has_outputs_in_rows_and_comes_back(shape: tuple[int, ...], dim: int) -> None:
    weight = torch.randn(shape)
    matrix = as_matrix(weight, dim)
    assert matrix.shape == (shape[1 - dim], weight.numel() // shape[1 - dim])
    assert torch.equal(in_shape(matrix, weight.shape, dim), weight)
    expected = weight if dim == 1 else weight.transpose(0, 1)
    assert torch.equal(matrix[0], expected[0].flatten())


def test_channels_last_changes_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    check(nn.Conv2d(4, 3, 3), x)


class Times(nn.Module):
    """`x @ w`, as a matrix for all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table


@pytest.mark.parametrize(
    ("build", "shape", "input_dim", "positions"),
    [
        (lambda: nn.Linear(4, 6), (5, 4), 1, 1),
        (lambda: nn.Linear(4, 6), (3, 7, 4), 1, 7),
        (lambda: nn.Linear(4, 6, bias=False), (3, 2, 7, 4), 1, 14),
        (Times, (5, 4), 0, 1),
        (Times, (3, 7, 4), 0, 7),
    ],
)
def test_a_matrix_product_multiplies_its_tokens(
    build: Callable[[], nn.Module], shape: tuple[int, ...], input_dim: int, positions: int
) -> None:
    torch.manual_seed(0)
    product = check(build(), torch.randn(shape))
    assert (product.input_dim, product.positions, product.window) == (input_dim, positions, None)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 60), st.integers(0, 9))
def test_places_are_drawn_evenly_over_items(
    items: int, positions: int, wanted: int, seed: int
) -> None:
    product = LinearOp("w", None, 1, 1, 1, items, positions, torch.zeros(1))
    found = product.draw(wanted, torch.Generator().manual_seed(seed)).tolist()
    assert len(found) >= min(wanted, items * positions)
    assert found == sorted(set(found))
    assert set(found) <= set(range(items * positions))
    each = [sum(place // positions == item for place in found) for item in range(items)]
    assert len(set(each)) == 1
    assert len(found) < wanted + items or each == [positions] * items


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_output_places_are_those_of_torch(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    if size < dilation * (kernel - 1) + 1:
        return
    out = F.conv1d(
        torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), stride=stride, dilation=dilation
    )
    assert places_of([size], [kernel], [stride], [dilation]) == (out.shape[2],)


class Uses(nn.Module):
    """One weight, used as the function says."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self._use = nn.Parameter(torch.randn(shape)), use

    def forward(self, x: Tensor) -> Tensor:
        return self._use(x, self.w)


@pytest.mark.parametrize(
    ("shape", "x", "use", "why"),
    [
        (
            (4, 3, 2),
            (2, 4, 5),
            lambda x, w: F.conv_transpose1d(x, w, groups=2),
            "a transposed convolution in groups",
        ),
        (
            (6, 4),
            (5, 4),
            lambda x, w: F.linear(x, w[:3]),
            "only a part of the weight is used at once",
        ),
        (
            (4, 6),
            (5, 4),
            lambda x, w: F.linear(x, w.reshape(6, 4)),
            "used through a permuted or reshaped view",
        ),
        ((6, 4), (5, 4), lambda x, w: F.linear(x, w) + w.sum(), "used by aten::sum as well"),
        ((5, 4), (5, 5), lambda x, w: w.T @ x, "used by a matrix product as well"),
    ],
)
def test_a_weight_that_cannot_be_weighed_says_why(
    shape: tuple[int, ...], x: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor], why: str
) -> None:
    assert watched(Uses(shape, use), torch.randn(x)).skipped == {"w": why}


def test_a_product_of_two_activations_has_no_weight() -> None:
    seen = watched(Uses((1,), lambda x, w: x @ x.mT), torch.randn(3, 2, 4))
    assert [product for product, _ in seen.products] == [None]
    assert seen.skipped == {}


class Normed(nn.Module):
    def __init__(self, *, reads: bool = False, shares: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.norm, self.reads, self.shares = nn.BatchNorm2d(3), reads, shares

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.norm(y) + self.b(x)
        if self.shares:
            z = z + self.norm(self.b(x))
        return z + y if self.reads else z


@pytest.mark.parametrize(
    ("options", "expected"), [({}, "norm"), ({"reads": True}, None), ({"shares": True}, None)]
)
def test_a_norm_is_a_products_own_where_both_have_no_other(
    options: dict[str, bool], expected: str | None
) -> None:
    seen = watched(Normed(**options), torch.randn(2, 2, 3, 3))
    assert seen.norms.norm("a.weight") == expected
    assert seen.norms.norm("b.weight") is None
    assert set(seen.paths) == {"norm"}


def test_a_norm_without_running_statistics_has_no_path() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    seen = watched(model, torch.randn(2, 2, 3, 3))
    assert seen.paths == [None]
    assert seen.norms.norm("0.weight") is None
