from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.outputs import tensors_in
from autoprune.pruning.one_shot import prune_model
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
