"""The cost of any candidate, from the sizes in the graph: no model is built or run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Timing
from autoprune.cost.activations import Activations
from autoprune.cost.liveness import execution_of
from autoprune.errors import GraphError
from autoprune.fields import COUNTS, LATENCIES, field_at
from autoprune.graph import Dim, PruningGraph

if TYPE_CHECKING:
    from autoprune.cost.predictor import LatencyPredictor

Floats = NDArray[np.float64]


class CostModel:
    """Cost as a function of how many units each group keeps.

    Parameters, multiply-accumulates and bytes are exact: they equal what `count_cost` counts on the
    model after surgery, and so does peak memory in the runtime "torch". In ONNX Runtime, peak
    memory is that of its fused graph (see `liveness`) as its planner lays it out (see `packing`);
    of several `runtimes`, each with its threads, that of the one that needs most. With `latency`,
    costs also hold its prediction, and their source is `predicted`; several predictors come by the
    names of their devices.
    """

    def __init__(
        self,
        graph: PruningGraph,
        *,
        latency: LatencyPredictor | Mapping[str, LatencyPredictor] | None = None,
        runtimes: Iterable[tuple[str, int]] = (("torch", 1),),
    ) -> None:
        self.graph = graph
        named = latency if isinstance(latency, Mapping) else {"": latency} if latency else {}
        self.latency: Mapping[str, LatencyPredictor] = named
        self._whole = graph.sizes()
        sizes = Sizes(self._whole)
        held = {**graph.parameters, **graph.buffers}
        self._params = sizes.products(graph.parameters.values())
        self._held = sizes.products(held.values())
        self._held_itemsizes = np.array([graph.itemsizes.get(name, 4) for name in held], float)
        self._macs = sizes.products(op.macs for op in graph.ops if op.macs)
        self._runs = [
            Activations(graph, sizes, execution, threads)
            for execution, threads in dict.fromkeys((execution_of(r), n) for r, n in runtimes)
        ]
        self._loaded = [
            np.array([name not in run.folded for name in held]) * self._held_itemsizes
            for run in self._runs
        ]
        self._sizes = sizes

    @property
    def dense(self) -> Cost:
        """The cost with every unit kept."""
        return self.cost(Architecture())

    def cost(self, architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        """What an architecture costs.

        With `fields` only those are determined (a latency with its percentile), which is quicker:
        most of the time of a whole cost goes into peak memory.

        Raises:
            GraphError: a group that does not exist, or a width above its size.
        """
        whole = self._checked(architecture.widths)
        counts = self.costs(np.array([list(whole.values())], dtype=np.int64), fields)
        one = {field: int(values[0]) for field, values in counts.items()}
        params, macs, weights, memory = (one.get(field) for field in COUNTS)
        cost = Cost(params, macs, weights, memory)
        for name, fitted in self.latency.items():
            wanted = [field_at(each, name) for each in LATENCIES]
            if fields is not None and not any(each in fields for each in wanted):
                continue
            median = fitted.predict(whole)
            p95 = median * fitted.p95_factor
            cost = cost.timed(Timing(name, median, p95, fitted.device), "predicted")
        return cost

    def costs(
        self, kept: NDArray[np.int64], fields: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Counted fields for many candidates at once; those in `fields`, where it is given.

        `kept` is `candidates x groups`, columns in the order of `graph.groups`; each value of the
        result is an array over the candidates.
        """
        sizes = self._sizes.of(kept)
        wanted = [field for field in COUNTS if fields is None or field in fields]
        return {field: np.rint(self._count(field, sizes)).astype(np.int64) for field in wanted}

    def _count(self, field: str, sizes: Floats) -> Floats:
        if field == "params":
            return np.asarray(self._params.of(sizes).sum(axis=1))
        if field == "macs":
            return np.asarray(self._macs.of(sizes).sum(axis=1))
        if field == "weight_bytes":
            return np.asarray(self._held.of(sizes) @ self._held_itemsizes)
        return self._peak(sizes)

    def _peak(self, sizes: Floats) -> Floats:
        held = self._held.of(sizes)
        runs = zip(self._runs, self._loaded, strict=True)
        return np.asarray(np.max([held @ loaded + run.peak(sizes) for run, loaded in runs], axis=0))

    def _checked(self, kept: Mapping[str, int]) -> dict[str, int]:
        for name, units in kept.items():
            size = self._whole[name] if name in self._whole else self.graph.group(name).size
            if not 1 <= units <= size:
                raise GraphError(f"widths[{name!r}] must be from 1 to {size} units, got {units}")
        return {name: int(kept.get(name, size)) for name, size in self._whole.items()}


class Sizes:
    """Every different `Dim` once, so that all are sized by one matrix product."""

    def __init__(self, groups: Iterable[str]) -> None:
        self._columns = {name: place for place, name in enumerate(groups)}
        self._places: dict[Dim, int] = {Dim(1): 0}
        self._linear: tuple[Floats, Floats] | None = None

    def products(self, shapes: Iterable[Sequence[Dim]]) -> Products:
        """The products of the dimensions of each shape, as a function of `of(kept)`."""
        rows = [[self._places.setdefault(d, len(self._places)) for d in dims] for dims in shapes]
        self._linear = None
        width = max(map(len, rows), default=0)
        padded = [row + [0] * (width - len(row)) for row in rows]
        return Products(np.array(padded, dtype=np.int64).reshape(len(rows), width))

    def of(self, kept: NDArray[Any]) -> Floats:
        """`candidates x groups` → `candidates x dims`. Exact in float64 up to 2**53."""
        fixed, units = self._matrices()
        return np.asarray(fixed + kept @ units.T, dtype=np.float64)

    def padded(self, kept: NDArray[Any], multiple: int) -> Floats:
        """As `of`, with the sizes that depend on `kept` rounded up to a multiple."""
        sizes, (_, units) = self.of(kept), self._matrices()
        varying = units.any(axis=1)
        sizes[:, varying] = np.ceil(sizes[:, varying] / multiple) * multiple
        return sizes

    def _matrices(self) -> tuple[Floats, Floats]:
        if self._linear is None:
            fixed = np.array([dim.fixed for dim in self._places], dtype=np.float64)
            units = np.zeros((len(self._places), len(self._columns)))
            for row, dim in enumerate(self._places):
                for name, per_unit in dim.per_unit.items():
                    units[row, self._columns[name]] = per_unit
            self._linear = fixed, units
        return self._linear


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """Products of rows of dimensions; `places` is `products x factors` into the sizes."""

    places: NDArray[np.int64]

    def of(self, sizes: Floats) -> Floats:
        """`candidates x dims` → `candidates x products`."""
        return np.asarray(sizes[:, self.places].prod(axis=2))
