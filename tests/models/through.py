"""One operator between two layers: what of the first layer can be pruned, and is that right?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from models.cutting import gap, random_keep
from torch import Tensor, nn

from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable

Function = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """A stem of 8 channels, a function, and a head that reads what comes out of it."""

    def __init__(self, function: Function, stem: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.stem, self.function = stem, function
        with torch.no_grad():
            out = function(stem(x))
        self.head = nn.Conv2d(out.shape[1], 3, 1) if out.dim() == 4 else nn.Linear(out.shape[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)))


def of_features(function: Function) -> PruningGraph:
    """The graph for features (2, 5, 8), after checking that what it prunes is right."""
    return _checked(function, nn.Linear(6, 8), torch.randn(2, 5, 6))


def of_images(function: Function) -> PruningGraph:
    """The graph for images (2, 8, 6, 6), checked likewise."""
    return _checked(function, nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 6, 6))


def units_of(graph: PruningGraph, layer: str = "stem") -> int:
    """In how many units the outputs of a layer can be pruned; 0 where they cannot."""
    return next((group.size for group in graph.groups if group.name == layer), 0)


def reason_of(graph: PruningGraph, layer: str = "stem") -> str:
    """Why the outputs of a layer are not prunable."""
    return next(frozen.reason for frozen in graph.frozen if frozen.name == layer)


def _checked(function: Function, stem: nn.Module, x: Tensor) -> PruningGraph:
    torch.manual_seed(0)
    for parameter in stem.parameters():
        nn.init.normal_(parameter)
    model = Through(function, stem, x).eval()
    graph = prunable(model, x)
    for seed in range(2):
        if graph.groups:
            assert gap(model, graph, random_keep(graph, seed), x, train=False) < 1e-9
    return graph
