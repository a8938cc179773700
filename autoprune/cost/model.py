"""The cost of any architecture, from the sizes in the graph: no model is built or run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.budget import Cost, Device, Timing
from autoprune.cost.activations import COUNTED, Activations, PeakMemory
from autoprune.cost.file_size import FileSize
from autoprune.cost.int8_file import Int8File, Int8Parts
from autoprune.cost.int8_weights import int8_copies
from autoprune.cost.sizes import Floats, Sizes
from autoprune.cost_fields import COUNTS, FILE, LATENCIES, field_at
from autoprune.graph import PruningGraph

SCALE_BYTES = 4.0  # of a quantized weight, for each of its output channels


class LatencyModel(Protocol):
    """Predicts the latency of a candidate on one device."""

    @property
    def device(self) -> Device:
        """The device of the latencies."""

    @property
    def p95_factor(self) -> float:
        """The usual ratio of the 95th percentile to the median."""

    def predict_many(self, counts: NDArray[np.int64]) -> Floats:
        """As `predict`, for `candidates x columns`."""

    def predict(self, counts: Mapping[str, int]) -> float:
        """Median milliseconds, with every one of the graph's columns named."""


class CostModel:
    """Cost as a function of the widths of groups and of which blocks are there.

    Parameters, multiply-accumulates and bytes are exact: they equal what `count_cost` counted on
    the model after surgery, and so does peak memory unless `memory` holds fits to measurements in a
    runtime; of several, the largest. With `file`, `file_bytes` is predicted: of a packed file, in
    int8 (an `Int8File`) of an ONNX file. With `latency`, costs also hold its prediction, and their
    source is `predicted`; several predictors are given by the names of their devices. In int8, a
    matrix or filter takes a byte an element and four for the scale of each output channel, as often
    as the file holds it (`int8_copies`); what stays float32 takes what it did, and activations are
    as `int8_cost` counts them.
    """

    def __init__(
        self,
        graph: PruningGraph,
        *,
        latency: LatencyModel | Mapping[str, LatencyModel] | None = None,
        memory: Sequence[PeakMemory] = (COUNTED,),
        file: FileSize | Int8File | None = None,
        precision: str = FLOAT32,
    ) -> None:
        self.graph, self._file = graph, file
        named = latency if isinstance(latency, Mapping) else {"": latency} if latency else {}
        self.latency: Mapping[str, LatencyModel] = named
        sizes = Sizes(graph.columns())
        held = {**graph.parameters, **graph.buffers, **graph.positions}
        present = {name: graph.presence_of(name) for name in held}
        self._params = sizes.products((*d, *present[n]) for n, d in graph.parameters.items())
        self._places = {name: place for place, name in enumerate(held)}
        self._held = sizes.products((*dims, *present[name]) for name, dims in held.items())
        self._held_itemsizes = np.array([graph.itemsizes.get(name, 4) for name in held], float)
        self._scales = sizes.products([])
        if precision == INT8:
            copies = {name: count for name, count in int8_copies(graph).items() if count}
            for name, count in copies.items():
                self._held_itemsizes[self._places[name]] = count
            self._scales = sizes.products(
                (graph.parameters[name][0], *present[name])
                for name, count in copies.items()
                for _ in range(count)
            )
        calls = zip(graph.ops, graph.present(), strict=True)
        self._macs = sizes.products((*op.macs, *there) for op, there in calls if op.macs)
        self._activations, self._memory = Activations(graph, sizes, precision), tuple(memory)
        self._parts = Int8Parts(graph, sizes)
        self._sizes = sizes

    @property
    def dense(self) -> Cost:
        """The cost of the unpruned model."""
        return self.cost(Architecture())

    def cost(self, architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        """The cost of an architecture.

        With `fields` only those are computed (a latency with its percentile), which is quicker:
        most of the time of a whole cost goes into peak memory.

        Raises:
            GraphError: a group or block that does not exist, or a width above its size.
        """
        counts = self.graph.counts(architecture)
        row = np.array([list(counts.values())], dtype=np.int64)
        counted = self.costs(row, fields, architecture.patterns)
        one = {field: int(values[0]) for field, values in counted.items()}
        params, macs, weights, memory = (one.get(field) for field in COUNTS)
        cost = Cost(params, macs, weights, memory, file_bytes=one.get(FILE))
        for name, fitted in self.latency.items():
            wanted = [field_at(each, name) for each in LATENCIES]
            if fields is not None and not any(each in fields for each in wanted):
                continue
            median = fitted.predict(counts)
            p95 = median * fitted.p95_factor
            cost = cost.timed(Timing(name, median, p95, fitted.device), "predicted")
        return cost

    def costs(
        self,
        counts: NDArray[np.int64],
        fields: Collection[str] | None = None,
        patterns: Mapping[str, str] | None = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Counted fields for many candidates at once; those in `fields`, where it is given.

        `counts` is `candidates x columns` in the order of `graph.columns()`; each value of the
        result is an array over the candidates. All have the same `patterns`.
        """
        sizes = self._sizes.of(counts)
        known = (*COUNTS, FILE) if self._file is not None else COUNTS
        wanted = [field for field in known if fields is None or field in fields]
        values_of = {
            field: self._count(field, counts, sizes)
            if field != FILE
            else self._written(counts, sizes, patterns or {})
            for field in wanted
        }
        return {field: np.rint(values).astype(np.int64) for field, values in values_of.items()}

    def prices(
        self, counts: NDArray[np.int64], fields: Collection[str]
    ) -> dict[str, NDArray[np.float64]]:
        """As `costs`, including predicted latencies."""
        found = {f: np.asarray(v, np.float64) for f, v in self.costs(counts, fields).items()}
        for name, fitted in self.latency.items():
            median, p95 = (field_at(each, name) for each in LATENCIES)
            if median in fields or p95 in fields:
                found[median] = np.asarray(fitted.predict_many(counts))
                found[p95] = found[median] * fitted.p95_factor
        return found

    def _written(
        self, counts: NDArray[np.int64], sizes: Floats, patterns: Mapping[str, str]
    ) -> Floats:
        """The predicted size of each candidate's file: an int8 one is no smaller with zeros."""
        assert self._file is not None
        if isinstance(self._file, Int8File):
            return self._file.of(self._parts.of(counts))
        held = self._held.of(sizes) * self._held_itemsizes
        columns = list(self.graph.columns())
        for name, pattern in patterns.items():
            place, dims = self._places[name], self.graph.parameters[name]
            for row, units in enumerate(counts.tolist()):
                kept = dict(zip(columns, units, strict=True))
                shape = [dim.size(kept) for dim in dims]
                held[row, place] *= self._file.share(pattern, shape, self._held_itemsizes[place])
        return np.asarray(self._file.total(held.sum(axis=1), len(patterns)))

    def _count(self, field: str, counts: NDArray[np.int64], sizes: Floats) -> Floats:
        if field == "params":
            return np.asarray(self._params.of(sizes).sum(axis=1))
        if field == "macs":
            return np.asarray(self._macs.of(sizes).sum(axis=1))
        scales = SCALE_BYTES * self._scales.of(sizes).sum(axis=1)
        held = np.asarray(self._held.of(sizes) @ self._held_itemsizes + scales)
        if field == "weight_bytes":
            return held
        peaks = self._activations.peaks(counts)
        return np.asarray(held + np.max([fitted.of(peaks) for fitted in self._memory], axis=0))
