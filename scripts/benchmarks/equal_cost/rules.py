"""Rules that engineers use for widths: from a strength to the units that each group keeps.

Which units stay, and their repair, are as in all methods of the benchmark.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from autoprune.graph import PruningGraph
from autoprune.pruning import importance
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.tasks import Task
from autoprune.tasks.on_batches import loss_of
from autoprune.training.batches import sample
from scripts.benchmarks.search.handmade import drops, tolerated, torch_pruned

MAX_RATIO = 0.95
GRADIENTS = 1024  # training samples of Taylor importances

Counts = Callable[[float], Mapping[str, float]]  # of a ratio from 0 to `MAX_RATIO`


def uniform(graph: PruningGraph) -> Counts:
    """The same ratio everywhere."""
    return lambda ratio: {name: size * (1.0 - ratio) for name, size in graph.sizes().items()}


def scattered(graph: PruningGraph, seed: int) -> Counts:
    """Ratios that are drawn anew for every group, times a common strength."""
    rng = np.random.default_rng(seed)
    strength = {name: rng.uniform(0.0, 2.0) for name in graph.sizes()}
    return lambda ratio: {
        name: size * (1.0 - min(MAX_RATIO, ratio * strength[name]))
        for name, size in graph.sizes().items()
    }


def global_l2(dense: nn.Module, graph: PruningGraph, example: torch.Tensor) -> Counts:
    """Torch-Pruning's widths by global l2."""

    def counts(ratio: float) -> dict[str, float]:
        kept = torch_pruned(dense, graph, example, ratio, MAX_RATIO)
        return {name: float(len(units)) for name, units in kept.items()}

    return counts


def fastnas(task: Task, dense: nn.Module, graph: PruningGraph) -> Counts:
    """The rule of ModelOpt's FastNAS: the same drop of accuracy by every group alone."""
    table = drops(task, dense, graph, seed=0, largest=MAX_RATIO)
    worst = max(values[0] for values in table.increases.values())
    return lambda ratio: {
        name: float(tolerated(table, name, ratio / MAX_RATIO * worst)) for name in table.counts
    }


def summed_importances(task: Task, dense: nn.Module, graph: PruningGraph) -> Sensitivity:
    """What a knapsack over units loses: the sum of the Taylor importances that go.

    As in HALP (Shen et al. 2022), whose knapsack weighs units by their Taylor importance and their
    latency; the solver here is the allocator of all methods.
    """
    batches = sample(task, 0, samples=GRADIENTS)
    gradients = importance.accumulate_gradients(dense, partial(loss_of, task), batches)
    scores = importance.scores(dense, graph, "taylor", gradients=gradients)
    counts, increases = {}, {}
    for name, values in scores.items():
        lost = np.concatenate([[0.0], np.cumsum(np.sort(values.numpy()))])  # by units that go
        counts[name] = tuple(range(1, len(values) + 1))
        increases[name] = tuple(float(lost[len(values) - count]) for count in counts[name])
        assert all(a >= b for a, b in itertools.pairwise(increases[name])), name
    return Sensitivity(0.0, counts, increases)
