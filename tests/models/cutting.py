"""What the tests of graph and surgery share: random units to keep, outputs, differences."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph import PruningGraph
from autoprune.graph.outputs import answers_in
from autoprune.pruning.masks import masked
from autoprune.pruning.surgery import prune


def random_keep(graph: PruningGraph, seed: int, low: float = 0.3) -> dict[str, list[int]]:
    """At least two units of every group (one of two), a random share of the others."""
    draw = np.random.default_rng(seed)
    keep = {}
    for group in graph.groups:
        fewest = min(group.size, max(2, int(low * group.size)))
        count = int(draw.integers(fewest, group.size + 1))
        keep[group.name] = sorted(draw.permutation(group.size)[:count].tolist())
    return keep


def flat(result: object) -> Tensor:
    parts = result if isinstance(result, tuple) else (result,)
    return torch.cat([part.detach().flatten() for part in parts])


def answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """All that the model answers, as one vector."""
    return torch.cat([part.detach().flatten() for part in answers_in(model(*inputs))])


def gap(
    model: nn.Module, graph: PruningGraph, keep: dict[str, list[int]], x: Tensor, *, train: bool
) -> float:
    """The largest difference of smaller and masked model over the largest output, in float64."""
    small = copy.deepcopy(model)
    prune(small, graph, keep)
    dense = masked(model, graph, keep)
    x = x.double() if x.is_floating_point() else x
    got = flat(small.double().train(train)(x))
    wanted = flat(dense.double().train(train)(x))
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
