from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.outputs import tensors_in
from autoprune.graph.replica import replica
from autoprune.pruning.masks import masked
from autoprune.pruning.one_shot import prune_model
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable


@dataclass
class Answer:
    logits: Tensor


class Slotted:
    __slots__ = ("__hidden", "unset")

    def __init__(self, logits: Tensor) -> None:
        self.__hidden = logits


class Ordered(OrderedDict):  # type: ignore[type-arg]
    """A subclass that nobody registered as a pytree."""


def circular(logits: Tensor) -> SimpleNamespace:
    inner = SimpleNamespace(logits=logits)
    inner.me, inner.all = inner, [inner]
    return inner


WRAPPINGS: dict[str, Callable[[Tensor], object]] = {
    "namespace": lambda t: SimpleNamespace(logits=t),
    "dataclass": Answer,
    "slots": Slotted,
    "ordered": lambda t: Ordered(logits=t),
    "mapping": lambda t: UserDict(logits=t),
    "distribution": lambda t: torch.distributions.Categorical(logits=t),
    "nested": lambda t: ("text", [{"a": Answer(SimpleNamespace(x=t))}], 3),
    "circular": circular,
}


class Wrapping(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.wrap = nn.Linear(8, 16), nn.Linear(16, 10), wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("name", WRAPPINGS)
def test_the_output_layer_stays_whole_whatever_holds_its_result(name: str) -> None:
    x = torch.randn(1, 8)
    small = prune_model(Wrapping(WRAPPINGS[name]), x, 0.5)
    assert (small.a.out_features, small.b.out_features) == (8, 10)
    assert tensors_in(small(x))[0].shape == (1, 10)


def test_all_stays_whole_where_no_tensor_comes_out() -> None:
    graph = prunable(Wrapping(lambda t: t.argmax(1).tolist()), torch.randn(1, 8))
    assert not graph.groups
    assert [(f.name, f.size) for f in graph.frozen] == [("a", 16), ("b", 10)]
    assert graph.frozen[0].reason == "no tensor is found in what the model returns"


def test_tensors_come_in_order_and_a_model_is_no_container() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    found = tensors_in(
        {"a": one, "b": (two, [one]), "c": SimpleNamespace(net=nn.Linear(2, 2)), "d": three}
    )
    assert [len(tensor) for tensor in found] == [1, 2, 1, 3]


class MyCache:
    """A cache as libraries have it: known by its class, not by the name under which it is kept."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = [SimpleNamespace(keys=keys, values=values) for keys, values in pairs]


class Decoder(nn.Module):
    """Attention with 4 heads, which returns its keys and values in a form of its own."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.qkv, self.out, self.wrap = nn.Linear(8, 3 * 32), nn.Linear(32, 5), wrap

    def forward(self, x: Tensor) -> tuple[Tensor, object]:
        q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2)), self.wrap(k, v)


CACHES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a class": lambda k, v: MyCache([(k, v)]),
    "pairs": lambda k, v: ((k, v), (k, v)),
    "lists": lambda k, v: [[k, v]],
}


@pytest.mark.parametrize("form", CACHES)
def test_heads_are_prunable_though_a_cache_without_a_name_is_returned(form: str) -> None:
    torch.manual_seed(0)
    net, x = Decoder(CACHES[form]).eval(), torch.randn(2, 6, 8)
    graph = prunable(net, x)
    assert [(group.name, group.size) for group in graph.groups] == [("qkv", 4)]
    keep = {"qkv": [0, 3]}
    small, dense = replica(net), masked(net, graph, keep)
    prune(small, graph, keep)
    torch.testing.assert_close(small(x)[0], dense(x)[0])


def test_what_is_returned_of_heads_and_is_no_cache_names_the_remedy() -> None:
    graph = prunable(Decoder(lambda k, v: (k, v)), torch.randn(2, 6, 8))
    assert not graph.groups
    reasons = {frozen.name: frozen.reason for frozen in graph.frozen}
    assert reasons["out"] == "model output"
    assert "use_cache=False" in reasons["qkv"]


def test_pairs_that_are_no_keys_and_values_are_outputs() -> None:
    class Levels(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name
            self.mean, self.spread = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> dict[str, object]:
            mean, spread = self.mean(x), self.spread(x)
            return {"y": self.last(mean + spread), self.name: [(mean, spread)]}

    x = torch.randn(2, 3, 4, 4)
    assert prunable(Levels("cache"), x).sizes() == {"mean": 8}
    graph = prunable(Levels("levels"), x)
    assert not graph.groups
    assert {frozen.name for frozen in graph.frozen} >= {"mean", "spread"}
