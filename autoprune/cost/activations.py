"""The memory that activations take at their peak, as a function of sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import FLOAT32, INT8
from autoprune.cost.sizes import Floats, Sizes
from autoprune.graph import Dim, PruningGraph

_BLOCK = 8  # channels that kernels keep together
_ALIGNED = 4  # channels: what copies into blocks can take
_BUFFER = 128 * 128 * 4.0  # bytes of a thread
_SUM, _POINTER = 4.0, 8.0  # bytes of a sum of products of int8, and of where a pixel is
_TOGETHER = 16  # output channels of a fast kernel of int8
FLOAT_BYTES = (2, 4)  # of a number that is quantized; indices have 8


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The peak memory of one runtime as a function of the counted live activations.

    The inputs, plus `plain` times the other live activations, plus `padded` times the same with
    channels rounded up to blocks of 8: most kernels work on such blocks, and copy to and from them.
    1 and 0 is the count itself. `buffer` times 64 KiB is added where a convolution cannot run on
    blocks, since its input channels are 8 or more and no multiple of 4: ONNX Runtime then collects
    its windows in a buffer (`nchwc_transformer.cc`, and MLAS's `convolve.cpp`). In int8 nothing is
    padded, every convolution collects its windows, and `sums` times its sums of 4 bytes an output
    are added (`qlinearconv.cc`). `upper_factor` times a model's whole prediction is above four
    fifths of the measurements behind it.
    """

    plain: float = 1.0
    padded: float = 0.0
    buffer: float = 0.0
    sums: float = 0.0
    upper_factor: float = 1.0

    def of(self, peaks: Floats) -> Floats:
        """`candidates x 5`, as `Activations.peaks` has them → bytes."""
        weights = [1.0, self.plain, self.padded, self.buffer, self.sums]
        return np.asarray(peaks @ np.array(weights))


COUNTED = PeakMemory()


class Activations:
    """The most bytes of activations that are live at one operator.

    An activation lives as long as the model's code holds it; the inputs are the caller's and live
    throughout, the outputs to the end. In int8 both stay as they are, and an element of what is
    between takes one byte.
    """

    def __init__(self, graph: PruningGraph, sizes: Sizes, precision: str = FLOAT32) -> None:
        firsts: dict[int, int] = {}
        for place, tensor in enumerate(graph.tensors):
            firsts.setdefault(tensor.storage, place)
        tensors = [graph.tensors[place] for place in firsts.values()]
        inputs, outputs = (
            {graph.tensors[place].storage for place in places}
            for places in (graph.inputs, graph.outputs)
        )
        self._sizes, self._is_int8 = sizes, precision == INT8
        present = _present(graph, list(firsts))
        self._memories = sizes.products(
            (*tensor.dims, *there) for tensor, there in zip(tensors, present, strict=True)
        )
        self._itemsizes = np.array([tensor.itemsize for tensor in tensors], float)
        if self._is_int8:
            between = np.array([storage not in inputs | outputs for storage in firsts], np.bool_)
            self._itemsizes[between & np.isin(self._itemsizes, FLOAT_BYTES)] = 1.0
        self._live = maximal(live(graph, list(firsts))).astype(np.float64)
        self._is_input = np.array([storage in inputs for storage in firsts], np.bool_)
        self._buffers = _Int8Buffers(graph, sizes) if self._is_int8 else _Buffers(graph, sizes)

    def peaks(self, counts: NDArray[np.int64]) -> Floats:
        """Bytes, `candidates x 5`.

        Inputs, the peak beside them, that in blocks of channels (0 in int8), the buffer of windows
        of convolutions (in float32 of one that cannot run on blocks; 0 without one), and in int8
        their sums.
        """
        sizes = self._sizes.of(counts)
        memories = self._bytes(sizes)
        inputs = memories[:, self._is_input].sum(axis=1)
        plain = self._peak(memories) - inputs
        padded = np.zeros_like(plain)
        if not self._is_int8:
            padded = self._peak(self._bytes(self._sizes.padded(counts, _BLOCK))) - inputs
        return np.stack([inputs, plain, padded, *self._buffers.of(sizes)], axis=1)

    def _bytes(self, sizes: Floats) -> Floats:
        return np.asarray(self._memories.of(sizes) * self._itemsizes)

    def _peak(self, memories: Floats) -> Floats:
        return np.asarray((memories @ self._live.T).max(axis=1, initial=0.0))


class _Buffers:
    """The buffer of a 2-d convolution of more than one pixel that cannot run on blocks."""

    def __init__(self, graph: PruningGraph, sizes: Sizes) -> None:
        windows, factors = _windows(graph), graph.present()
        self._channels = sizes.products((channels,) for _, channels in windows)
        self._there = sizes.products(factors[call] for call, _ in windows)

    def of(self, sizes: Floats) -> tuple[Floats, Floats]:
        """`candidates x dims` → bytes of windows, and of sums: none."""
        channels = self._channels.of(sizes) * (self._there.of(sizes) > 0)
        is_plain = ((channels >= _BLOCK) & (channels % _ALIGNED != 0)).any(axis=1)
        return np.asarray(_BUFFER * is_plain), np.zeros(len(sizes))


class _Int8Buffers:
    """What convolutions in int8 need beside: the windows of one image, and their sums.

    Kernels for 16 output channels at once (and 4 of at least 8 input channels) read windows through
    pointers, as depthwise ones do, and keep no sums. ONNX Runtime's arena uses a buffer again for a
    later convolution that needs no more; for one that needs more it takes another.
    """

    def __init__(self, graph: PruningGraph, sizes: Sizes) -> None:
        calls, factors = _convolutions(graph), graph.present()
        outs = [graph.tensors[graph.ops[call].outputs[0]].dims for call, _ in calls]
        at = [(dims, out, factors[call]) for (call, dims), out in zip(calls, outs, strict=True)]
        self._sums = sizes.products((*out, *there) for _, out, there in at)
        self._columns = sizes.products((*dims[1:], *out[2:], *there) for dims, out, there in at)
        self._places = sizes.products((*dims[2:], *out[2:], *there) for dims, out, there in at)
        self._channels = sizes.products((dims[0],) for dims, _, _ in at)
        self._inputs = sizes.products((dims[1],) for dims, _, _ in at)
        windows = [any(dim.fixed != 1 for dim in dims[2:]) for dims, _, _ in at]
        depthwise = [dims[1] == Dim(1) and dims[0] != Dim(1) for dims, _, _ in at]
        self._is_window = np.array(windows, np.bool_)
        self._is_depthwise = np.array(depthwise, np.bool_)

    def of(self, sizes: Floats) -> tuple[Floats, Floats]:
        """`candidates x dims` → bytes of windows, and of sums."""
        inputs = self._inputs.of(sizes)
        reads_4 = (inputs >= _BLOCK) & (inputs % _ALIGNED == 0)
        is_fast = (self._channels.of(sizes) % _TOGETHER == 0) & (reads_4 | self._is_depthwise)
        pointed = is_fast | self._is_depthwise
        windows = np.where(pointed, _POINTER * self._places.of(sizes), self._columns.of(sizes))
        sums = np.where(is_fast, 0.0, _SUM * self._sums.of(sizes))
        return taken(windows * self._is_window), taken(sums)


def taken(needed: Floats) -> Floats:
    """`candidates x calls` → what all calls take, if each uses the largest buffer before again.

    >>> taken(np.array([[3.0, 2.0, 5.0, 4.0]]))
    array([8.])
    """
    before = np.maximum.accumulate(np.pad(needed, ((0, 0), (1, 0))), axis=1)[:, :-1]
    return np.asarray(np.where(needed > before, needed, 0.0).sum(axis=1))


def _convolutions(graph: PruningGraph) -> list[tuple[int, tuple[Dim, ...]]]:
    """The calls of convolutions, and the dimensions of their filters."""
    return [
        (call, graph.parameters[name])
        for call, op in enumerate(graph.ops)
        if op.name.endswith("convolution")
        for name in op.parameters
        if len(graph.parameters.get(name, ())) > 2
    ]


def _windows(graph: PruningGraph) -> list[tuple[int, Dim]]:
    """The calls of 2-d convolutions of more than one pixel, and their input channels."""
    return [
        (call, dims[1])
        for call, dims in _convolutions(graph)
        if len(dims) == 4 and (dims[2].fixed, dims[3].fixed) != (1, 1)
    ]


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
