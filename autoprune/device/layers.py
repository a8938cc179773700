"""A model layer by layer: what each contraction computes, and how long it is estimated to take."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoprune.architecture import INT8, Architecture
from autoprune.device.predictor import LatencyPredictor
from autoprune.graph import Op, PruningGraph
from autoprune.store import LayerCosts, LayerInfo, Network

DENSE, SMALLEST = "dense", "smallest"
_MUCH = 0.2


def network(
    graph: PruningGraph,
    predictor: LatencyPredictor | None,
    architectures: Mapping[str, Architecture],
    latency: str = "",
    int8: LatencyPredictor | None = None,
) -> Network:
    """The layers of a model, and their costs in the dense one and in these architectures.

    `latency` is the name of the cost that `predictor` predicts, and `int8` for int8 models. A layer
    without units (in a dropped block) has width 0.
    """
    calls = [place for place, op in enumerate(graph.ops) if op.macs]
    every = {DENSE: Architecture(), **architectures}
    return Network(
        tuple(_layer(graph, call) for call in calls),
        {
            name: _costs(graph, calls, int8 if found.precision == INT8 else predictor, found)
            for name, found in every.items()
        },
        latency if predictor is not None else "",
    )


def halves(graph: PruningGraph, predictor: LatencyPredictor | None) -> dict[str, float]:
    """By group, the share of the dense model's cost that pruning half of it alone saves.

    The cost is the predicted latency, or multiply-accumulates without a predictor. It covers the
    layers that read the group, too; 0 where nothing is saved.
    """

    def total(architecture: Architecture) -> float:
        if predictor is not None:
            return predictor.predict(graph.counts(architecture))
        calls = [place for place, op in enumerate(graph.ops) if op.macs]
        return sum(_costs(graph, calls, None, architecture).macs)

    dense = total(Architecture()) or 1.0
    small = ((g.name, Architecture({g.name: max(1, g.size // 2)})) for g in graph.groups)
    return {name: max(0.0, 1.0 - total(half) / dense) for name, half in small}


def largest_part(
    graph: PruningGraph,
    predictors: Mapping[str, LatencyPredictor],
    architecture: Architecture,
    field: str,
) -> str:
    """`; conv1 alone is 41 % of it` for latencies and multiply-accumulates, where one takes much.

    `predictors` are by the name of their latency.
    """
    predictor = predictors.get(field)
    if predictor is None and field != "macs":
        return ""
    costs = network(graph, predictor, {"it": architecture}).models["it"]
    parts = costs.ms if predictor is not None else costs.macs
    whole = predictor.predict(graph.counts(architecture)) if predictor is not None else sum(parts)
    if not whole or max(parts) < _MUCH * whole:
        return ""
    calls = [op for op in graph.ops if op.macs]
    layer = calls[max(range(len(parts)), key=parts.__getitem__)].layer
    return f"; {layer} alone is {100 * max(parts) / whole:.0f} % of it"


def _layer(graph: PruningGraph, call: int) -> LayerInfo:
    op = graph.ops[call]
    blocks = [block for block in graph.blocks if call in block.calls]
    inner = min(blocks, key=lambda block: len(block.calls)).name if blocks else ""
    return LayerInfo(op.layer or op.name, op.name.partition(".")[0], _group(graph, op), inner)


def _group(graph: PruningGraph, op: Op) -> str:
    """The group that the layer's outputs belong to; empty where they are not prunable."""
    for group in graph.groups:
        for part in group.slices:
            if part.role == "out" and part.tensor in op.parameters:
                return group.name
    return ""


def _costs(
    graph: PruningGraph,
    calls: list[int],
    predictor: LatencyPredictor | None,
    architecture: Architecture,
) -> LayerCosts:
    counts, there = graph.counts(architecture), graph.present()
    widths, macs = [], []
    for call in calls:
        op = graph.ops[call]
        present = math.prod(dim.size(counts) for dim in there[call])
        widths.append(present * _width(graph, op, counts))
        macs.append(present * math.prod(dim.size(counts) for dim in op.macs))
    parts = predictor.by_layer(counts) if predictor is not None else {}
    return LayerCosts(tuple(widths), tuple(macs), tuple(parts.values()))


def _width(graph: PruningGraph, op: Op, counts: Mapping[str, int]) -> int:
    """Output channels: the dimension that pruning changes, or where a channel usually is."""
    dims = graph.tensors[op.outputs[0]].dims
    varying = [dim for dim in dims if dim.per_unit]
    usual = dims[1] if len(dims) > 2 and "conv" in op.name else dims[-1]
    return (varying[0] if varying else usual).size(counts)
