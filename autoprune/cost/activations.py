"""The memory of activations as a function of sizes, for many candidates at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.liveness import Execution, is_convolution, liveness, maximal
from autoprune.cost.packing import Packing
from autoprune.cost.workspace import Convolution, block, is_wide, padded, workspace_bytes
from autoprune.graph import Dim, PruningGraph
from autoprune.graph.types import Op

if TYPE_CHECKING:
    from autoprune.cost.model import Sizes

Floats = NDArray[np.float64]
Shape = Sequence[Dim]


@dataclass(frozen=True)
class Shapes:
    """Input, output and weight of one convolution."""

    source: Shape
    result: Shape
    weight: Shape
    itemsize: int

    def is_transposed(self, whole: Mapping[str, int]) -> bool:
        """A transposed one's weight begins with the input's channels; where both are, it grows."""
        if self.weight[0] != self.source[1] or self.weight[0] == self.result[1]:
            inside, outside = (
                math.prod(dim.size(whole) for dim in dims[2:])
                for dims in (self.source, self.result)
            )
            return self.weight[0] == self.source[1] and outside > inside
        return True


class Activations:
    """The most bytes of activations that an execution of the graph holds at once.

    `folded` are the parameters and buffers that it does not hold.
    """

    def __init__(
        self, graph: PruningGraph, sizes: Sizes, execution: Execution, threads: int
    ) -> None:
        found = liveness(graph, execution)
        tensors = [graph.tensors[tensor] for tensor in found.tensors]
        self.folded = found.folded
        self._execution = execution
        self._memories = sizes.products(tensor.dims for tensor in tensors)
        self._itemsizes = np.array([tensor.itemsize for tensor in tensors], float)
        self._live = maximal(found.live).astype(np.float64)
        calls = {n: row for n, op in enumerate(graph.ops) if (row := _shapes(graph, op))}
        self._eager = EagerWorkspace(graph, sizes, list(calls.values()), threads)
        self._fused = FusedWorkspace(graph, sizes, list(calls.values()), threads)
        self._live_there = found.live[list(calls)].astype(np.float64)
        self._packing = Packing.of(graph, found) if execution == "fused" else None
        made = {n for call in calls for n in graph.ops[call].outputs[:1]}
        self._channels = sizes.products(tensor.dims[1:2] for tensor in tensors)
        self._is_blocked = np.array(
            [n in made and len(graph.tensors[n].dims) == 4 for n in found.tensors], np.bool_
        )

    def peak(self, sizes: Floats) -> Floats:
        """`candidates x dims` → bytes of each candidate."""
        memories = self._memories.of(sizes) * self._itemsizes
        if self._packing is not None:
            return self._planned(sizes, memories, self._packing)
        live = (memories @ self._live.T).max(axis=1, initial=0.0)
        if self._execution == "held" or not len(self._live_there):
            return np.asarray(live)
        there = memories @ self._live_there.T + self._eager.of(sizes)
        return np.asarray(np.maximum(live, there.max(axis=1)))

    def _planned(self, sizes: Floats, memories: Floats, packing: Packing) -> Floats:
        channels = self._channels.of(sizes)
        blocked = memories * np.where(self._is_blocked, padded(channels) / channels, 1.0)
        packed = np.array([packing.size(row) for row in blocked.tolist()])
        return np.asarray(packed + self._fused.of(sizes).max(axis=1, initial=0.0))


class EagerWorkspace:
    """What PyTorch's convolutions (`rows` of their shapes) allocate for themselves."""

    def __init__(
        self, graph: PruningGraph, sizes: Sizes, rows: Sequence[Shapes], threads: int
    ) -> None:
        whole = graph.sizes()
        self._threads = threads
        self._source = [sizes.products(row.source[part] for row in rows) for part in _PARTS]
        self._result = [sizes.products(row.result[part] for row in rows) for part in _PARTS]
        self._weight = [sizes.products(row.weight[part] for row in rows) for part in _PARTS]
        self._itemsizes = np.array([row.itemsize for row in rows], np.int64)
        kernels = [[dim.size(whole) for dim in row.weight[2:]] for row in rows]
        self._is_wide = np.array([is_wide(kernel) for kernel in kernels], np.bool_)
        self._is_transposed = np.array([row.is_transposed(whole) for row in rows], np.bool_)

    def of(self, sizes: Floats) -> Floats:
        """`candidates x dims` → bytes, `candidates x calls`."""
        batch, channels, inside = (part.of(sizes) for part in self._source)
        _, filters, outside = (part.of(sizes) for part in self._result)
        _, depth, kernel = (part.of(sizes) for part in self._weight)
        calls = Convolution(
            batch=batch,
            channels=channels,
            filters=filters,
            depth=depth,
            kernel=kernel,
            inside=inside,
            outside=outside,
            itemsize=self._itemsizes,
            is_wide=self._is_wide,
            is_transposed=self._is_transposed,
        )
        return workspace_bytes(calls, self._threads)


class FusedWorkspace:
    """What ONNX Runtime's convolutions allocate for themselves.

    Those with blocks of channels need nothing. The others (not in two dimensions, or in groups
    that are neither single channels nor whole blocks) unfold their input piece by piece.
    """

    def __init__(
        self, graph: PruningGraph, sizes: Sizes, rows: Sequence[Shapes], threads: int
    ) -> None:
        self._bytes = float(_PIECE * threads)
        self._channels, self._filters, self._depth = (
            sizes.products(dims)
            for dims in (
                [row.source[1:2] for row in rows],
                [row.result[1:2] for row in rows],
                [row.weight[1:2] for row in rows],
            )
        )
        self._is_flat = np.array([len(row.source) == 4 for row in rows], np.bool_)
        whole = graph.sizes()
        kernels = [math.prod(dim.size(whole) for dim in row.weight[2:]) for row in rows]
        self._unfolds = np.array([kernel > 1 for kernel in kernels], np.bool_)

    def of(self, sizes: Floats) -> Floats:
        """`candidates x dims` → bytes, `candidates x calls`."""
        channels, filters, depth = (
            part.of(sizes) for part in (self._channels, self._filters, self._depth)
        )
        groups = np.maximum(channels / depth, 1.0)
        by_group = (depth % block() == 0) & ((filters / groups) % block() == 0)
        is_blocked = self._is_flat & ((groups == 1) | (depth == 1) | by_group)
        return np.where(self._unfolds & ~is_blocked, self._bytes, 0.0)


_PIECE = 65536  # bytes of unfolded input for each thread
_PARTS = (slice(0, 1), slice(1, 2), slice(2, None))  # of a shape: first, channels, positions


def _shapes(graph: PruningGraph, op: Op) -> Shapes | None:
    """Those of a convolution; None for any other call."""
    if not is_convolution(op) or not op.inputs or not op.outputs:
        return None
    source, result = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    held = {**graph.parameters, **graph.buffers}
    others = [held[name] for name in op.parameters if name in held]
    others += [graph.tensors[tensor].dims for tensor in op.inputs[1:]]
    weight = next((dims for dims in others if len(dims) == len(source.dims)), None)
    return Shapes(source.dims, result.dims, weight, source.itemsize) if weight else None
