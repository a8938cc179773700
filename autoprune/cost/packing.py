"""How ONNX Runtime lays out the memory of a run, for a graph and the sizes of a candidate.

Its planner first gives a tensor the memory of an earlier one of the same shape that nobody needs
any more; that memory is then held from the one to the other. What is left it packs: each takes the
tightest gap between those that are held with it, else the end. What is lost between them is lost.

Convolutions compute on blocks of channels. A tensor that comes in blocks is copied out of them for
an operator that does not know blocks, and one that does not into them for a convolution.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.cost.liveness import Liveness, is_convolution, plain_name
from autoprune.cost.workspace import block
from autoprune.graph import PruningGraph
from autoprune.graph.types import Op

_IN_BLOCKS = frozenset(
    """relu hardtanh clamp clamp_min sigmoid tanh add max_pool2d_with_indices avg_pool2d
    _adaptive_avg_pool2d native_batch_norm _native_batch_norm_legit_no_training
    _batch_norm_no_update upsample_nearest2d upsample_bilinear2d""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Interval:
    """A memory of the size of `column`, held at these moments; `rank` of the tensor's shape."""

    first: int
    last: int
    column: int
    rank: int


@dataclass(frozen=True)
class Packing:
    """What has to be laid out. Inputs and outputs (`kept`) are not: they are the caller's.

    There are two moments a call: copies between layouts are made at 2n, results at 2n + 1.
    """

    kept: tuple[int, ...]
    intervals: tuple[Interval, ...]

    @staticmethod
    def of(graph: PruningGraph, found: Liveness) -> Packing:
        """From when each memory is held."""
        fixed = {found.column[tensor] for tensor in (*graph.inputs, *graph.outputs)}
        ranks = [len(graph.tensors[tensor].dims) for tensor in found.tensors]
        intervals = _copies(graph, found, fixed, ranks)
        for column, rank in enumerate(ranks):
            calls = np.flatnonzero(found.live[:, column])
            if column not in fixed and len(calls):
                first, last = 2 * int(calls[0]) + 1, 2 * int(calls[-1]) + 1
                intervals.append(Interval(first, last, column, rank))
        ordered = sorted(intervals, key=lambda it: (it.first, it.last, it.column))
        return Packing(tuple(sorted(fixed)), tuple(ordered))

    def size(self, memories: Sequence[float]) -> float:
        """Bytes in all, for the bytes of each memory."""
        top = 0.0
        blocks: list[tuple[float, float, int]] = []  # offset, end and last moment, by the offset
        for column, first, last in self._reused(memories):
            size = memories[column]
            blocks = [it for it in blocks if it[2] >= first]
            offset = _tightest(blocks, size)
            insort(blocks, (offset, offset + size, last))
            top = max(top, offset + size)
        return top + sum(memories[column] for column in self.kept)

    def _reused(self, memories: Sequence[float]) -> list[list[int]]:
        """Column, first and last moment, where what follows in the same memory is one with it."""
        held: list[list[int]] = []
        by_shape: dict[tuple[float, int], list[list[int]]] = {}
        for it in self.intervals:
            alike = by_shape.setdefault((memories[it.column], it.rank), [])
            free = [other for other in alike if other[2] < it.first]
            if free:
                max(free, key=lambda other: other[2])[2] = it.last
            else:
                alike.append([it.column, it.first, it.last])
                held.append(alike[-1])
        return held


def _tightest(blocks: Sequence[tuple[float, float, int]], size: float) -> float:
    """The offset of the smallest gap between blocks that holds `size`, else their end."""
    end, best, waste = 0.0, -1.0, math.inf
    for offset, stop, _ in blocks:
        gap = offset - end
        if size <= gap < size + waste:
            best, waste = end, gap - size
        end = max(end, stop)
    return end if best < 0.0 else best


def _copies(
    graph: PruningGraph, found: Liveness, fixed: set[int], ranks: Sequence[int]
) -> list[Interval]:
    """A copy of each memory that is read in another layout, from its first such reading on."""
    whole = graph.sizes()
    blocked: set[int] = set()
    read: dict[tuple[int, bool], list[int]] = {}
    for call, op in enumerate(graph.ops):
        columns = [found.column[tensor] for tensor in op.inputs]
        keeps = is_convolution(op) or _keeps_blocks(
            graph, op, [column in blocked for column in columns], whole
        )
        for tensor, column in zip(op.inputs, columns, strict=True):
            dims = graph.tensors[tensor].dims
            few = len(dims) != 4 or dims[1].size(whole) < block()
            if column not in fixed and not few and keeps != (column in blocked):
                read.setdefault((column, keeps), []).append(call)
        if keeps and len(graph.tensors[op.outputs[0]].dims) == 4:
            blocked.update(found.column[tensor] for tensor in op.outputs)
    return [
        Interval(2 * calls[0], 2 * calls[-1] + 1, column, ranks[column])
        for (column, _), calls in read.items()
    ]


def _keeps_blocks(
    graph: PruningGraph, op: Op, blocked: Sequence[bool], whole: Mapping[str, int]
) -> bool:
    if not blocked or not all(blocked):
        return False
    name, result = plain_name(op), graph.tensors[op.outputs[0]].dims
    if name == "cat":
        sources = (graph.tensors[tensor].dims for tensor in op.inputs)
        return all(dims[1].size(whole) % block() == 0 for dims in sources)
    return name in _IN_BLOCKS or (name == "mean" and len(result) == 4)
