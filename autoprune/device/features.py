"""Features of the latency model: arithmetic and memory traffic, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.sizes import Floats, Sizes
from autoprune.graph import Dim, Op, PruningGraph

_BLOCKS = (8, 32)  # channels per block of a kernel; a partial block costs as much as a full one
_STEPS = (4, 8)  # channel counts off these take slower kernels (ONNX Runtime's below 4 a vector)
_OFF = ("macs with channels in", "macs with channels out", "bytes with channels")
_SUMMED = ("macs", "bytes in", "bytes out", "calls")
TOTALS = (*_SUMMED, "other bytes", "other calls")
LEAST = 1e-3  # of a sum or total, relative to the dense model
_LIGHT = 8.0  # multiply-accumulates per byte below which a contraction is bandwidth-bound


class LatencyFeatures:
    """Features of candidates, each relative to its largest value (at the dense model mostly 1).

    Shared ones sum over the model, by kind of contraction: the multiply-accumulates, the same with
    channels rounded up to blocks of 8 and 32, the bytes in and out, the elements of the weights,
    work and traffic where the channels in or out are no multiple of 4 or 8, and the number of
    calls, which falls where blocks are dropped; then the bytes that all other operators move and
    the number of their calls, and a constant. Own ones are the same per contraction. Those that no
    candidate changes are left out, the constant stands for them. All are non-negative.
    """

    def __init__(
        self,
        graph: PruningGraph,
        *,
        blocks: Sequence[int] = _BLOCKS,
        steps: Sequence[int] = _STEPS,
    ) -> None:
        """`blocks` and `steps` in place of 8 and 32, and of 4 and 8."""
        self._blocks, self._steps = blocks, steps
        own = ["macs", "bytes in", "bytes out", "weights"]
        own += [f"macs in blocks of {block}" for block in blocks]
        own += [f"{what} off {step}" for step in steps for what in _OFF]
        own += ["calls"]
        self.columns = graph.columns()
        self._sizes = Sizes(self.columns)
        present = graph.present()
        heavy = [op for op in graph.ops if op.macs]
        moves = [not op.macs and _moves(graph, op) for op in graph.ops]
        moving = [op for op, it in zip(graph.ops, moves, strict=True) if it]
        self._heavy_there = self._sizes.products(
            there for op, there in zip(graph.ops, present, strict=True) if op.macs
        )
        self._moving_there = self._sizes.products(
            there for it, there in zip(moves, present, strict=True) if it
        )
        self._macs = self._sizes.products(op.macs for op in heavy)
        self._weights = self._sizes.products(
            tuple(dim for dim in op.macs if dim.per_unit) for op in heavy
        )
        self._tensors = self._sizes.products(tensor.dims for tensor in graph.tensors)
        self._channels_in = self._sizes.products(_channels(graph, op.inputs) for op in heavy)
        self._channels_out = self._sizes.products(_channels(graph, op.outputs) for op in heavy)
        itemsizes = np.array([tensor.itemsize for tensor in graph.tensors], float)
        self._in = _incidence((op.inputs for op in heavy), itemsizes)
        self._out = _incidence((op.outputs for op in heavy), itemsizes)
        self._rest = _incidence(((*op.inputs, *op.outputs) for op in moving), itemsizes)
        whole = np.array([list(self.columns.values())], dtype=np.int64)
        self._kinds = _kinds(heavy, self._own(whole)[0])
        self.contractions = _labels(heavy)
        self._names = _names(self.contractions, [kind for kind, _ in self._kinds], own)
        self._to_totals = np.zeros((len(self._names), len(TOTALS)))
        first = len(own) * len(heavy)
        for column, what in enumerate(_SUMMED):
            self._to_totals[first + own.index(what) : -3 : len(own), column] = 1.0
        self._to_totals[[-3, -2], [-2, -1]] = 1.0
        self._dense_totals = (self._raw(whole) @ self._to_totals)[0]
        extremes = [whole, np.maximum(whole - 1, 1), np.ones_like(whole), np.zeros_like(whole)]
        extremes[-1][:, : len(graph.groups)] = whole[:, : len(graph.groups)]
        seen = self._raw(np.concatenate(extremes))
        self._scale = seen.max(axis=0)
        constant = np.arange(len(self._names)) == len(self._names) - 1
        self._used = (seen.min(axis=0) < self._scale) | constant

    @property
    def names(self) -> tuple[str, ...]:
        """One for each column, e.g. `layer1.0.conv1: macs` or `all convolution: bytes in`."""
        return tuple(np.array(self._names)[self._used].tolist())

    @property
    def shared(self) -> NDArray[np.bool_]:
        """Which columns sum over the whole model."""
        return np.array([name.startswith("all ") for name in self.names])

    def of(self, counts: NDArray[np.int64]) -> Floats:
        """`candidates x columns` → `candidates x features`."""
        used = self._used
        return np.asarray(self._raw(counts)[:, used] / self._scale[used])

    def with_totals(self, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """`of(counts)`, and `candidates x TOTALS`: sums over the model, relative to the dense one.

        Those of all contractions and of all other operators; 1 where the dense model has none, and
        at least 0.001, so that they have logarithms.
        """
        raw, used, dense = self._raw(counts), self._used, self._dense_totals
        sums = raw @ self._to_totals
        totals = np.divide(sums, dense, out=np.ones_like(sums), where=dense > 0.0)
        return raw[:, used] / self._scale[used], np.maximum(totals, LEAST)

    def row(self, counts: Mapping[str, int]) -> NDArray[np.int64]:
        """One candidate as `1 x columns`; columns that are not named are unpruned."""
        return np.array([[counts.get(name, size) for name, size in self.columns.items()]])

    def by_contraction(self, counts: NDArray[np.int64], coefficients: Floats) -> Floats:
        """`candidates x contractions`: the part of `of(counts) @ coefficients` that is of each.

        A shared feature is divided by what each contraction adds to it. The other operators and the
        constant are of none.
        """
        own = self._own(counts)
        kinds, places = own.shape[1:]
        weights = np.zeros(len(self._names))
        weights[self._used] = coefficients / self._scale[self._used]
        each = weights[: kinds * places].reshape(kinds, places).copy()
        for number, (_, members) in enumerate(self._kinds):
            first = kinds * (places + number)
            each[:, members] += weights[first : first + kinds, None]
        return np.asarray((own * each).sum(axis=1))

    def _own(self, counts: NDArray[np.int64]) -> Floats:
        """`candidates x kinds of feature x contractions`, in the order of their names."""
        sizes = self._sizes.of(counts)
        tensors = self._tensors.of(sizes)
        macs, inward, outward = self._macs.of(sizes), tensors @ self._in.T, tensors @ self._out.T
        own = [macs, inward, outward, self._weights.of(sizes)]
        own += [self._macs.of(self._sizes.padded(counts, block)) for block in self._blocks]
        into, out_of = self._channels_in.of(sizes), self._channels_out.of(sizes)
        for step in self._steps:
            off_in, off_out = into % step != 0, out_of % step != 0
            own += [macs * off_in, macs * off_out, (inward + outward) * (off_in | off_out)]
        own += [np.ones_like(macs)]
        return np.stack(own, axis=1) * self._heavy_there.of(sizes)[:, None, :]

    def _raw(self, counts: NDArray[np.int64]) -> Floats:
        own = self._own(counts)
        n = len(counts)
        by_kind = [own[:, :, members].sum(axis=2) for _, members in self._kinds]
        sizes = self._sizes.of(counts)
        there = self._moving_there.of(sizes)
        moved = ((self._tensors.of(sizes) @ self._rest.T) * there).sum(axis=1, keepdims=True)
        calls = there.sum(axis=1, keepdims=True)
        rest = [moved, calls, np.ones((n, 1))]
        return np.concatenate([own.reshape(n, -1), *by_kind, *rest], axis=1)


def _labels(heavy: list[Op]) -> list[str]:
    """The layer of each contraction; numbered where a layer has several."""
    seen: dict[str, int] = {}
    labels = []
    for op in heavy:
        seen[op.layer] = seen.get(op.layer, 0) + 1
        label = op.layer or op.name
        labels.append(label if seen[op.layer] == 1 else f"{label} #{seen[op.layer]}")
    return labels


def _names(labels: list[str], kinds: list[str], own: list[str]) -> list[str]:
    alone = [f"{label}: {what}" for what in own for label in labels]
    shared = [f"all {kind}: {what}" for kind in kinds for what in own]
    return [*alone, *shared, "all other: bytes", "all other: calls", "all constant"]


def _kinds(heavy: list[Op], own: Floats) -> list[tuple[str, NDArray[np.int64]]]:
    """Contractions by operator, those with little arithmetic for their traffic apart."""
    macs, traffic = own[0], own[1] + own[2]
    members: dict[str, list[int]] = {}
    for place, op in enumerate(heavy):
        light = macs[place] < _LIGHT * traffic[place]
        members.setdefault(f"light {op.name}" if light else op.name, []).append(place)
    return [(kind, np.array(places)) for kind, places in sorted(members.items())]


def _channels(graph: PruningGraph, tensors: Iterable[int]) -> tuple[Dim, ...]:
    """The first dimension that pruning changes among those of the tensors; none, where none is."""
    for place in tensors:
        for dim in graph.tensors[place].dims:
            if dim.per_unit:
                return (dim,)
    return (Dim(0),)  # on every step


def _incidence(tensors: Iterable[tuple[int, ...]], itemsizes: Floats) -> Floats:
    """`operators x tensors`: the bytes of one element of each tensor that the operator touches."""
    rows = list(tensors)
    matrix = np.zeros((len(rows), len(itemsizes)))
    for row, places in enumerate(rows):
        for place in places:
            matrix[row, place] = itemsizes[place]
    return matrix


def _moves(graph: PruningGraph, op: Op) -> bool:
    """Whether the operator touches memory: a view makes no storage and changes none."""
    if op.name.split(".")[0].endswith("_"):
        return True
    read = {graph.tensors[place].storage for place in op.inputs}
    return any(graph.tensors[place].storage not in read for place in op.outputs)
