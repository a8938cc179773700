"""Layers that the example does not reach, in one list with layers that it does."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable

import pytest
import torch
from models.cutting import random_keep
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.graph.types import Frozen
from autoprune.pruning.masks import masked
from autoprune.pruning.one_shot import prune_model
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable

NOT_REACHED = "not reached by the example input"


class Expert(nn.Module):
    """A hidden layer with a norm; asks for its own width."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.a, self.norm, self.b = (
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x.view(-1, self.width)))))


class Mixture(nn.Module):
    """Each token runs through the expert of its number modulo four."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(20, 12), nn.Linear(12, 5)
        self.experts = nn.ModuleList(experts)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if bool((chosen := tokens % len(self.experts) == number).any()):
                result[chosen] = expert(x[chosen])
        return self.out(x + result)


@pytest.mark.parametrize("reached", [[1], [0, 2], [0, 1, 2]])
def test_experts_that_were_not_reached_are_pruned_as_the_others(
    reached: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Mixture(Expert(12, 8) for _ in range(3)).eval()
    for expert in model.experts:
        nn.init.uniform_(expert.norm.running_mean)
    with caplog.at_level(logging.WARNING):
        graph = prunable(model, torch.tensor(reached))
    assert not caplog.records
    assert graph.sizes() == {"words": 12, **{f"experts.{n}.a": 8 for n in reached}}
    others = [n for n in range(3) if n not in reached]
    assert {f for f in graph.frozen if f.reason == NOT_REACHED} == {
        Frozen(f"experts.{n}.{layer}", 8, NOT_REACHED) for n in others for layer in ("a", "norm")
    }
    keep = random_keep(graph, 3)
    small, dense = copy.deepcopy(model).double(), masked(model, graph, keep).double()
    prune(small, graph, keep)
    assert torch.allclose(small(torch.arange(20)), dense(torch.arange(20)), atol=1e-12)
    widths = {len(keep["words"])}
    assert {e.width for e in small.experts} == {e.a.in_features for e in small.experts} == widths
    assert {e.b.out_features for e in small.experts} == widths


class Ways(nn.Module):
    """One of several ways between two layers."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.stem, self.ways, self.out = nn.Linear(4, 8), nn.ModuleList(ways), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.ways[len(x) - 1](self.stem(x)))


def test_another_way_between_two_layers_has_the_same_channels() -> None:
    model = Ways(nn.Linear(8, 6), nn.Linear(8, 6))
    graph = trace(model, torch.zeros(1, 4))
    assert graph.sizes() == {"stem": 8, "ways.0": 6}
    assert [frozen.name for frozen in graph.frozen] == ["out"]
    small = prune_model(model, torch.zeros(1, 4), 0.5)
    assert small.ways[1].weight.shape == small.ways[0].weight.shape == (3, 4)
    assert small(torch.zeros(2, 4)).shape == (2, 2)


def test_a_layer_of_another_structure_says_nothing() -> None:
    graph = trace(Ways(nn.Linear(8, 6), nn.Linear(8, 6, bias=False)), torch.zeros(1, 4))
    assert Frozen("ways.1", 6, NOT_REACHED) in graph.frozen


def test_siblings_that_differ_in_their_channels_say_nothing() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:3]:
                x = torch.relu(layer(x))
            return x

    graph = trace(Chain(), torch.zeros(1, 8))
    assert graph.sizes() == {"layers.0": 8, "layers.1": 8}
    assert Frozen("layers.3", 8, NOT_REACHED) in graph.frozen


def test_an_entry_of_a_dictionary_is_a_sibling_and_what_is_ignored_stays() -> None:
    class Languages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
            self.adapters = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("de", "fr")})

        def forward(self, x: Tensor, language: str = "de") -> Tensor:
            x = self.stem(x)
            return self.out(x + self.adapters[language](x))

    model, x = Languages(), torch.zeros(1, 4)
    small = prune_model(model, x, 0.5)
    assert small.adapters["fr"].weight.shape == (4, 4)
    assert small(x, "fr").shape == (1, 3)
    assert trace(model, x, ignored_layers=["adapters.fr"]).sizes() == {}
