"""Nests of tensors keep their types, whatever is done with them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autoprune.tasks.nested import (
    attributes,
    device_of,
    first_sample,
    mapped,
    to_device,
    without_workers,
)

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass(frozen=True)
class Output:
    logits: Any
    loss: Any = None


class Named(UserDict):  # type: ignore[type-arg]
    """A mapping with more than its items, as collators have them."""

    encoding = "kept"


X = torch.tensor([1.0, 2.0])


def doubled(value: Any) -> Any:
    return mapped(lambda tensor: tensor * 2.0, value)


@pytest.mark.parametrize(
    "nest",
    [
        X,
        (X, "text"),
        [X, [X, 3]],
        {"a": X, "b": {"c": (X,)}},
        OrderedDict(b=X, a=X),
        Pair(X, None),
        Output(X, X),
        SimpleNamespace(x=X, n=3),
        Named(x=X),
    ],
    ids=lambda nest: type(nest).__name__,
)
def test_every_tensor_is_mapped_in_containers_of_the_same_types(nest: Any) -> None:
    found = doubled(nest)

    def check(one: Any, other: Any) -> None:
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            assert torch.equal(other, one * 2.0)
            return
        if hasattr(one, "keys"):
            assert list(one) == list(other)
            pairs = [(one[key], other[key]) for key in one]
        elif isinstance(one, (tuple, list)):
            pairs = list(zip(one, other, strict=True))
        elif (named := attributes(one)) is not None:
            pairs = [(value, getattr(other, name)) for name, value in named.items()]
        else:
            assert one == other
            return
        for pair in pairs:
            check(*pair)

    check(nest, found)


def test_the_given_nest_is_not_changed() -> None:
    for nest in ({"a": X}, Named(a=X), SimpleNamespace(a=X), Output(X)):
        doubled(nest)
        held = nest["a"] if hasattr(nest, "keys") else next(iter(attributes(nest).values()))  # type: ignore[union-attr,index]
        assert held.tolist() == [1.0, 2.0]


def test_a_mapping_that_cannot_be_written_to_becomes_a_plain_one() -> None:
    found = doubled(MappingProxyType({"a": X}))
    assert type(found) is dict
    assert found["a"].tolist() == [2.0, 4.0]


def test_attributes_are_those_of_values_that_hold_some() -> None:
    assert attributes(SimpleNamespace(a=1)) == {"a": 1}
    assert attributes(Output(1, 2)) == {"logits": 1, "loss": 2}
    assert attributes(Output) is None
    assert attributes({"a": 1}) is None
    assert attributes(3) is None


def test_tensors_move_and_the_rest_stays() -> None:
    found = to_device({"x": [X, (X, "name")], "n": 3}, "meta")
    assert found["x"][0].is_meta
    assert found["x"][1][0].is_meta
    assert (found["x"][1][1], found["n"]) == ("name", 3)


def test_a_models_device_is_that_of_its_first_tensor() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    buffered = nn.Module()
    buffered.register_buffer("b", torch.zeros(1, device="meta"))
    assert device_of(buffered) == torch.device("meta")


def test_a_first_sample_keeps_its_batch_dimension_and_is_a_copy() -> None:
    x = torch.arange(6.0, requires_grad=True).reshape(3, 2) * 1.0
    found = first_sample({"x": x, "more": [x, 3], "text": "as it is"})
    assert found["x"].tolist() == [[0.0, 1.0]]
    assert not found["x"].requires_grad
    assert found["more"][0].tolist() == [[0.0, 1.0]]
    assert found["more"][1] == 3
    assert type(found["more"]) is tuple
    assert found["text"] == "as it is"
    found["x"].zero_()
    assert x[0].tolist() == [0.0, 1.0]


def test_a_loader_is_copied_without_its_worker_processes() -> None:
    loader = DataLoader([1, 2, 3])
    loader._iterator = object()  # type: ignore[assignment]
    fresh = without_workers(loader)
    assert fresh is not loader
    assert fresh._iterator is None
    assert loader._iterator is not None
    assert [int(it) for it in fresh] == [1, 2, 3]
    other = [loader]
    assert without_workers(other) is other
