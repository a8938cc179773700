"""Sizes that code passes to calls: read from the call, and followed to their attribute."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.given import (
    cut_given,
    is_ratio,
    made,
    meet,
    meet_groups,
    parts_given,
    settle,
    settle_rest,
    shape_given,
)
from autoprune.graph.ids import FREE, Ids
from autoprune.graph.sizes import Made, Seen, Size, mark

X = torch.zeros(2, 3, 8)


def called(name: str, *args: Any, **kwargs: Any) -> Any:
    """A flow in the middle of a call."""
    return SimpleNamespace(caller=name, arguments=(args, kwargs))


@pytest.mark.parametrize(
    ("flow", "ndim", "expected"),
    [
        (called("view", X, 2, 24), 2, [2, 24]),
        (called("reshape", X, (2, 24)), 2, [2, 24]),
        (called("reshape", X, shape=(6, 8)), 2, [6, 8]),
        (called("expand", X, [2, 3, 8]), 3, [2, 3, 8]),
        (called("new_zeros", X, (4, 5)), 2, [4, 5]),
        (called("zeros", 4, 5), 2, [4, 5]),
        (called("full", (4, 5), 1.0), 2, [4, 5]),
        (called("ones", size=(4,)), 1, [4]),
        (called("unflatten", X, 2, (4, 2)), 4, [None, None, 4, 2]),
        (called("unflatten", X, -1, (4, 2)), 4, [None, None, 4, 2]),
        (called("unflatten", X, 0, (1, 2)), 4, [1, 2, None, None]),
        (called("flatten", X, 1), 2, [None, None]),
        (called("view", X, 2), 3, [None, None, None]),  # fewer than dimensions: another call
    ],
)
def test_the_sizes_that_a_call_was_given(flow: Any, ndim: int, expected: list[Any]) -> None:
    assert shape_given(flow, ndim) == expected


def size(value: int) -> Size:
    return Size(value, Seen(torch.arange(value).numpy()))


def test_the_parts_of_a_split_are_known_where_one_has_a_source() -> None:
    whole = [size(3), size(5)]
    assert parts_given(called("split", X, whole, 2), 2) == whole
    assert parts_given(called("split_with_sizes", X, whole), 2) == whole
    assert parts_given(called("split", X, split_size_or_sections=whole), 2) == whole
    assert parts_given(called("split", X, [size(3), 5]), 2) == [3, 5]
    assert parts_given(called("split", X, [3, 5]), 2) is None
    assert parts_given(called("split", X, whole), 3) is None
    assert parts_given(called("split", X, 4), 2) is None
    assert parts_given(called("chunk", X, whole), 2) is None


def test_the_bound_of_a_slice_has_a_source_unless_it_is_a_literal() -> None:
    bound = size(5)
    assert cut_given(called("__getitem__", X, slice(None, bound)), 5) is bound.source
    assert cut_given(called("__getitem__", X, (slice(None), slice(bound, None))), 5) is bound.source
    assert cut_given(called("__getitem__", X, slice(None, 5)), 5) is None
    assert cut_given(called("__getitem__", X, slice(None, bound)), 4) is None
    assert cut_given(called("__setitem__", X, slice(None, bound), X), 5) is bound.source
    assert cut_given(called("select", X, slice(None, bound)), 5) is None


def test_the_bounds_of_parts_have_sources() -> None:
    half, third = size(4), size(3)
    assert cut_given(called("narrow", X, 2, 0, half), 4) is half.source
    assert cut_given(called("narrow", X, 2, half, half), 4) is half.source
    assert cut_given(called("narrow", X, 2, 0, 4), 4) is None
    both = cut_given(called("narrow", X, dim=2, start=third, length=half), 7)
    assert isinstance(both, Made)
    assert (both.left, both.operator, both.right) == (third.source, "+", half.source)
    assert cut_given(called("tensor_split", X, (half, 7), 2), 4) is half.source
    assert cut_given(called("tensor_split", X, (half, 7), 2), 7) is None
    assert cut_given(called("tensor_split", X, indices=[third], dim=2), 3) is third.source


def test_equal_sections_are_bounded_by_multiples_of_the_size_over_their_number() -> None:
    flow = called("tensor_split", X, 4, 2)
    flow.known_labels = lambda tensor: (None, None, torch.arange(8).numpy())
    found = cut_given(flow, 6)
    assert isinstance(found, Made)
    assert (found.operator, found.right) == ("*", 3)
    assert isinstance(found.left, Made)
    assert (found.left.operator, found.left.right) == ("//", 4)
    assert cut_given(flow, 5) is None
    uneven = called("tensor_split", X, sections=3, dim=2)
    uneven.known_labels = flow.known_labels
    assert cut_given(uneven, 3) is None


class Joins:
    """A flow as far as sizes are met: notes what is tied and what is blocked."""

    def __init__(self) -> None:
        self.ids = Ids()
        self.blocked: list[tuple[list[int], str]] = []
        self.modules: dict[str, nn.Module] = {}
        self.constants: set[Any] = set()

    def block(self, label: Any, reason: str) -> None:
        self.blocked.append((label.tolist(), reason))

    def join(self, left: Any, right: Any) -> None:
        self.ids.join(left, right, "")

    def own_nothing(self, count: int) -> Any:
        return self.ids.fresh(count)


def test_a_dimension_has_the_ids_of_the_size_that_was_passed_for_it() -> None:
    flow = Joins()
    left, right = flow.ids.fresh(4), flow.ids.fresh(4)
    given = [2, Size(4, Seen(left, flow))]
    assert meet(flow, given, (None, right)) == {1}  # type: ignore[arg-type]
    assert flow.ids.find(right).tolist() == left.tolist()
    assert flow.blocked == []


def test_a_size_for_a_fixed_dimension_is_fixed_too() -> None:
    flow = Joins()
    ids = flow.ids.fresh(4)
    meet(flow, [Size(4, Seen(ids, flow))], (None,))  # type: ignore[arg-type]
    assert flow.blocked == [(ids.tolist(), "gives a dimension of fixed size its size")]


def test_a_size_of_another_run_says_nothing() -> None:
    flow, other = Joins(), Joins()
    ids, label = other.ids.fresh(4), flow.ids.fresh(4)
    assert meet(flow, [Size(4, Seen(ids, other))], (label,)) == set()  # type: ignore[arg-type]
    assert flow.ids.classes(label) == 4


def test_a_product_ties_what_repeats_and_a_quotient_what_is_repeated() -> None:
    flow = Joins()
    ids = flow.ids.fresh(2)
    seen = Seen(ids, flow)
    wide = flow.ids.fresh(6)
    for outer in range(2):
        flow.ids.union(wide[3 * outer : 3 * outer + 3], wide[[3 * outer] * 3])
    meet(flow, [Size(6, Made("*", seen, 3))], (wide,))  # type: ignore[arg-type]
    assert flow.ids.find(wide).tolist() == [0, 0, 0, 1, 1, 1]
    whole, half = flow.ids.fresh(4), flow.ids.fresh(2)
    meet(flow, [Size(2, Made("//", Seen(whole, flow), 2))], (half,))  # type: ignore[arg-type]
    assert flow.ids.find(whole).tolist() == flow.ids.find(half).tolist() * 2


@pytest.mark.parametrize(
    ("caller", "args", "kwargs"),
    [
        ("group_norm", [X, None], {}),
        ("conv2d", [X, X, X, 1, 0, 1, None], {}),
        ("conv2d", [X, X], {"groups": None}),
        ("group_norm", [X], {"num_groups": None}),
    ],
)
def test_the_number_of_groups_has_the_ids_of_the_channels(
    caller: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    flow = Joins()
    seen, channels = flow.ids.fresh(4), flow.ids.fresh(4)
    passed = Size(4, Seen(seen, flow))
    flow.caller = caller
    flow.arguments = [passed if a is None else a for a in args], dict.fromkeys(kwargs, passed)
    meet_groups(flow, channels)  # type: ignore[arg-type]
    assert flow.ids.find(channels).tolist() == seen.tolist()


class Holding(Joins):
    """A flow with a module that holds numbers; notes which dimension each of them gives."""

    def __init__(self) -> None:
        super().__init__()
        net = nn.Module()
        net.a, net.b, net.times = 4, 2, 3
        mark(net)
        self.net, self.modules = net, {"": net}
        self.waiting: list[Any] = []
        self.noted: list[tuple[str, list[int]]] = []

    def note_held(self, held: Any, label: Any) -> None:
        self.noted.append((held.name, self.ids.find(label).tolist()))


def test_the_parts_of_a_sum_have_their_places_and_those_of_tensors_have_none() -> None:
    flow = Holding()
    label = flow.ids.fresh(6)
    total = flow.net.a + flow.net.b
    settle(flow, total.source, label, 6, {})  # type: ignore[arg-type]
    assert flow.noted == [("a", [0, 1, 2, 3]), ("b", [4, 5])]
    seen = [Size(count, Seen(flow.ids.fresh(count), flow)) for count in (2, 4)]
    settle(flow, (seen[0] + seen[1]).source, label, 6, {})  # type: ignore[arg-type]
    assert flow.ids.classes(np.arange(12)) == 12  # they may have been joined in any order
    assert flow.blocked == []


def test_a_product_that_is_split_after_it_was_cut_is_settled_at_the_end() -> None:
    flow = Holding()
    label = flow.ids.fresh(12)
    settle(flow, (flow.net.a * flow.net.times).source, label, 12, {})  # type: ignore[arg-type]
    assert flow.noted == []
    flow.ids.tie_columns(label.reshape(4, 3).T.copy(), "")
    settle_rest(flow)  # type: ignore[arg-type]
    assert flow.noted == [("a", [0, 3, 6, 9])]
    assert flow.waiting == []


def test_a_factor_that_gave_a_fixed_dimension_its_size_does_not_follow() -> None:
    flow = Holding()
    a, times = flow.net.a, flow.net.times
    label = np.repeat(flow.ids.fresh(4), 3)
    meet(flow, [times], (None,))  # type: ignore[arg-type]
    assert flow.constants == {times.source}
    settle(flow, (times * a).source, label, 12, {})  # type: ignore[arg-type]
    assert flow.noted == [("a", [0, 1, 2, 3])]


def test_a_quotient_of_two_sizes_is_a_ratio() -> None:
    net = nn.Module()
    net.heads, net.few = 8, 4
    mark(net)
    assert is_ratio(net.heads // net.few)
    assert is_ratio(net.heads // size(2))
    assert not is_ratio(net.heads // 2)
    assert not is_ratio(net.heads * net.few)
    assert not is_ratio(2)


def test_a_constant_takes_the_ids_of_its_sizes_and_is_free_elsewhere() -> None:
    flow = Joins()
    ids = flow.ids.fresh(4)
    first, second = made(flow, [3, Size(4, Seen(ids, flow))], (3, 4))  # type: ignore[arg-type]
    assert first is not None
    assert first.tolist() == [FREE] * 3
    assert second is ids


class Split(nn.Module):
    """Two unequal parts, whose sizes are attributes or literals."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.a, self.sizes, self.literal = nn.Linear(4, 12), (4, 8), literal
        self.b, self.c = nn.Linear(4, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split([4, 8] if self.literal else list(self.sizes), 1)
        return self.b(left.relu()) + self.c(right.relu())


def test_parts_of_sizes_that_are_held_are_prunable_with_the_attribute() -> None:
    graph = trace(Split(literal=False), torch.zeros(1, 4))
    assert sorted(graph.sizes().values()) == [4, 8]
    held = {a.keys: a.dims[0].size(graph.sizes()) for a in graph.attributes if a.name == "sizes"}
    assert held == {(0,): 4, (1,): 8}
    assert trace(Split(literal=True), torch.zeros(1, 4)).sizes() == {}
