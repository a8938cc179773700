"""The memory that activations take at their peak, as a function of sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.sizes import Floats, Sizes
from autoprune.graph import Dim, PruningGraph

_BLOCK = 8  # channels that kernels keep together
_ALIGNED = 4  # channels: what copies into blocks can take
_BUFFER = 128 * 128 * 4.0  # bytes of a thread


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The peak memory of one runtime as a function of the counted live activations.

    The inputs, plus `plain` times the other live activations, plus `padded` times the same with
    channels rounded up to blocks of 8: most kernels work on such blocks, and copy to and from them.
    1 and 0 is the count itself. `buffer` times 64 KiB is added where a convolution cannot run on
    blocks, since its input channels are 8 or more and no multiple of 4: ONNX Runtime then collects
    its windows in a buffer (`nchwc_transformer.cc`, and MLAS's `convolve.cpp`). `upper_factor`
    times a model's whole prediction is above four fifths of the measurements behind it.
    """

    plain: float = 1.0
    padded: float = 0.0
    buffer: float = 0.0
    upper_factor: float = 1.0

    def of(self, peaks: Floats) -> Floats:
        """`candidates x 4`, as `Activations.peaks` has them → bytes."""
        return np.asarray(peaks @ np.array([1.0, self.plain, self.padded, self.buffer]))


COUNTED = PeakMemory()


class Activations:
    """The most bytes of activations that are live at one operator.

    An activation lives as long as the model's code holds it; the inputs are the caller's and live
    throughout, the outputs to the end.
    """

    def __init__(self, graph: PruningGraph, sizes: Sizes) -> None:
        firsts: dict[int, int] = {}
        for place, tensor in enumerate(graph.tensors):
            firsts.setdefault(tensor.storage, place)
        tensors = [graph.tensors[place] for place in firsts.values()]
        inputs = {graph.tensors[place].storage for place in graph.inputs}
        self._sizes = sizes
        present = _present(graph, list(firsts))
        self._memories = sizes.products(
            (*tensor.dims, *there) for tensor, there in zip(tensors, present, strict=True)
        )
        self._itemsizes = np.array([tensor.itemsize for tensor in tensors], float)
        self._live = maximal(live(graph, list(firsts))).astype(np.float64)
        self._is_input = np.array([storage in inputs for storage in firsts], np.bool_)
        windows, factors = _windows(graph), graph.present()
        self._channels = sizes.products((channels,) for _, channels in windows)
        self._there = sizes.products(factors[call] for call, _ in windows)

    def peaks(self, counts: NDArray[np.int64]) -> Floats:
        """Bytes, `candidates x 4`.

        Inputs, the peak beside them, that in blocks of channels, and the buffer of a convolution
        that cannot run on blocks (0 without one).
        """
        sizes = self._sizes.of(counts)
        memories = self._bytes(sizes)
        blocks = self._bytes(self._sizes.padded(counts, _BLOCK))
        inputs = memories[:, self._is_input].sum(axis=1)
        peaks = [(each @ self._live.T).max(axis=1, initial=0.0) for each in (memories, blocks)]
        channels = self._channels.of(sizes) * (self._there.of(sizes) > 0)
        is_plain = ((channels >= _BLOCK) & (channels % _ALIGNED != 0)).any(axis=1)
        return np.stack([inputs, *(peak - inputs for peak in peaks), _BUFFER * is_plain], axis=1)

    def _bytes(self, sizes: Floats) -> Floats:
        return np.asarray(self._memories.of(sizes) * self._itemsizes)


def _windows(graph: PruningGraph) -> list[tuple[int, Dim]]:
    """The calls of 2-d convolutions of more than one pixel, and their input channels."""
    found = []
    for call, op in enumerate(graph.ops):
        for name in op.parameters if op.name.endswith("convolution") else ():
            dims = graph.parameters.get(name, ())
            if len(dims) == 4 and (dims[2].fixed, dims[3].fixed) != (1, 1):
                found.append((call, dims[1]))
    return found


def _present(graph: PruningGraph, storages: list[int]) -> list[tuple[Dim, ...]]:
    """For each storage the blocks that are its only writers."""
    writers: dict[int, set[int]] = {storage: set() for storage in storages}
    for call, op in enumerate(graph.ops):
        for tensor in op.outputs:
            writers[graph.tensors[tensor].storage].add(call)
    return [
        tuple(b.presence for b in graph.blocks if calls and calls <= b.calls - {b.addition})
        for calls in writers.values()
    ]


def live(graph: PruningGraph, storages: list[int]) -> NDArray[np.bool_]:
    """`operators x storages`: whether a storage is held at an operator."""
    column = {storage: place for place, storage in enumerate(storages)}
    first, last = np.full(len(column), math.inf), np.full(len(column), -math.inf)
    for call, op in enumerate(graph.ops):
        for tensor in (*op.inputs, *op.outputs):
            place = column[graph.tensors[tensor].storage]
            first[place] = min(first[place], call)
            last[place] = max(last[place], call)
    if graph.freed is not None:
        held = [graph.freed.get(storage, math.inf) for storage in storages]
        last = np.where(np.isfinite(first), np.maximum(last, held), last)
    inputs, outputs = (
        [column[graph.tensors[tensor].storage] for tensor in found]
        for found in (graph.inputs, graph.outputs)
    )
    first[inputs] = 0
    last[[*inputs, *outputs]] = math.inf
    calls = np.arange(max(1, len(graph.ops)))[:, None]
    return np.asarray((first <= calls) & (calls <= last))


def maximal(live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows that are not contained in a neighboring row."""
    rows: list[NDArray[np.bool_]] = []
    for row in live:
        if rows and not (row & ~rows[-1]).any():
            continue
        while rows and not (rows[-1] & ~row).any():
            rows.pop()
        rows.append(row)
    return np.array(rows).reshape(len(rows), live.shape[1])
