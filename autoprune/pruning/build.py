"""Builds smaller models from a dense one: drop blocks, prune units, make weights sparse, repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.architecture import Architecture
from autoprune.errors import UsageError
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning import compensate, importance, surgery
from autoprune.pruning.compensate import Calibration
from autoprune.pruning.configuration import remember
from autoprune.pruning.depth import drop
from autoprune.pruning.sparse_repair import cut_like, moments_after
from autoprune.pruning.sparsity import Choice, Masks, sparsify

KeptIndices = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Built:
    """A smaller model, its own graph, and which units of the model before it are in it.

    `masks` say where weights with a pattern are zero.
    """

    model: nn.Module
    graph: PruningGraph
    kept_indices: dict[str, tuple[int, ...]]
    masks: Masks = field(default_factory=dict)


def build(
    dense: nn.Module,
    graph: PruningGraph,
    architecture: Architecture,
    *,
    scores: Mapping[str, Tensor] | None = None,
    kept_indices: KeptIndices | None = None,
    calibration: Calibration | None = None,
    choice: Choice | None = None,
    predict_statistics: bool = True,
) -> Built:
    """A smaller copy of `dense`, which is not changed.

    The units with the largest `scores` (see `importance.scores`) are kept, or those in
    `kept_indices`. Then weights get their patterns, on the inputs that are left; `choice` says
    which elements become zero (default: the smallest). With a `calibration` of `dense` the
    remaining weights are repaired by least squares, and (`predict_statistics`) the statistics of
    batch normalizations are predicted. Raises UsageError where neither says which units a narrower
    group keeps, GraphError where the architecture does not fit the graph. Its precision is that of
    the finished model: what is built here computes in the precision of `dense`.
    """
    model = replica(dense)
    remember(model, dense)
    return _cut(
        model,
        dense,
        graph,
        architecture,
        units_of(graph, architecture, scores, kept_indices),
        calibration,
        choice=choice,
        predict_statistics=predict_statistics,
    )


def shrink(
    model: nn.Module,
    graph: PruningGraph,
    architecture: Architecture,
    *,
    scores: Mapping[str, Tensor] | None = None,
    kept_indices: KeptIndices | None = None,
    calibration: Calibration | None = None,
    choice: Choice | None = None,
    zeros: Masks | None = None,
    optimizer: Optimizer | None = None,
) -> Built:
    """As `build`, in place and in the middle of training; `graph` is that of `model` as it is now.

    Parameters keep their identity, and their entries in the optimizer's state are cut with them.
    What is in `zeros` (the masks so far) stays zero as far as the patterns have room for it.
    Statistics of batch normalizations are only cut: training re-estimates them.
    """
    before = replica(model) if calibration is not None else None
    units = units_of(graph, architecture, scores, kept_indices)
    return _cut(
        model,
        before,
        graph,
        architecture,
        units,
        calibration,
        choice=choice,
        zeros=zeros,
        optimizer=optimizer,
        predict_statistics=False,
    )


def units_of(
    graph: PruningGraph,
    architecture: Architecture,
    scores: Mapping[str, Tensor] | None,
    kept_indices: KeptIndices | None = None,
) -> dict[str, tuple[int, ...]]:
    """Which units every narrower group keeps, ascending; the first ones among equal scores."""
    narrower = narrowed(graph, architecture)
    if kept_indices is not None:
        for name, width in narrower.items():
            if len(kept_indices.get(name, ())) != width:
                raise UsageError(
                    f"kept_indices[{name!r}] must hold {width} units, "
                    f"got {len(kept_indices.get(name, ()))}"
                )
        return {name: tuple(kept_indices[name]) for name in narrower}
    if scores is None and narrower:
        raise UsageError("the kept units must be given by scores or by kept_indices")
    return importance.best_units(scores or {}, narrower)


def newly_dropped(graph: PruningGraph, architecture: Architecture) -> list[str]:
    """The blocks that the graph still has and the architecture has not."""
    return [name for name in architecture.dropped if name not in graph.dropped]


def narrowed(graph: PruningGraph, architecture: Architecture) -> dict[str, int]:
    """The widths that are smaller than the graph's; GraphError for what it does not have.

    Groups inside a dropped block have none, also where it was dropped before.
    """
    lost, sizes = graph.lost(newly_dropped(graph, architecture)), graph.sizes()
    widths = {}
    for name, width in architecture.widths.items():
        if name in lost or (graph.dropped and name not in sizes):
            continue
        size = graph.group(name).size
        if width > size:
            raise UsageError(f"widths[{name!r}] must be at most {size}, got {width}")
        if width < size:
            widths[name] = width
    return widths


def _cut(
    model: nn.Module,
    before: nn.Module | None,
    graph: PruningGraph,
    architecture: Architecture,
    kept: dict[str, tuple[int, ...]],
    calibration: Calibration | None,
    *,
    choice: Choice | None = None,
    zeros: Masks | None = None,
    optimizer: Optimizer | None = None,
    predict_statistics: bool = True,
) -> Built:
    dropped = newly_dropped(graph, architecture)
    shorter = drop(model, graph, dropped, optimizer=optimizer)
    smaller = surgery.prune(model, shorter, kept, optimizer=optimizer)
    if calibration is not None and before is not None and kept:
        with torch.no_grad():
            compensate.repair(model, before, shorter, kept, calibration)
            if predict_statistics:
                compensate.predict_batchnorm(model, before, shorter, kept, calibration)
    patterns = _left(architecture.patterns, smaller)
    if not patterns:
        return Built(model, smaller, kept)
    choice = choice or Choice()
    known = calibration or choice.calibration
    masks = sparsify(
        model,
        smaller,
        patterns,
        replace(
            choice,
            gradients=cut_like(choice.gradients or {}, shorter, kept),
            repair=calibration is not None,
            predict_statistics=predict_statistics,
        ),
        zeros=cut_like(zeros or {}, shorter, kept),
        moments=moments_after(shorter, kept, known) if known is not None else {},
        optimizer=optimizer,
    )
    return Built(model, smaller, kept, masks)


def _left(patterns: Mapping[str, str], graph: PruningGraph) -> dict[str, str]:
    """The patterns without those of weights that went with a dropped block."""
    gone = graph.dropped
    return {n: pattern for n, pattern in patterns.items() if n in graph.parameters or not gone}
