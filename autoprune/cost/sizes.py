"""Sizes of tensors by how many units each group keeps, for many candidates at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import BLOCK
from autoprune.graph import Dim

Floats = NDArray[np.float64]


class Sizes:
    """Every different `Dim` once, so that all are sized by one matrix product.

    `columns` are the groups and blocks that sizes depend on (see `PruningGraph.columns`).
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._columns = {name: place for place, name in enumerate(columns)}
        self._places: dict[Dim, int] = {Dim(1): 0}
        self._linear: tuple[Floats, Floats] | None = None

    def products(self, shapes: Iterable[Sequence[Dim]]) -> Products:
        """The products of the dimensions of each shape, as a function of `of(counts)`."""
        rows = [[self._places.setdefault(d, len(self._places)) for d in dims] for dims in shapes]
        self._linear = None
        width = max(map(len, rows), default=0)
        padded = [row + [0] * (width - len(row)) for row in rows]
        return Products(np.array(padded, dtype=np.int64).reshape(len(rows), width))

    def of(self, counts: NDArray[Any]) -> Floats:
        """`candidates x columns` → `candidates x dims`. Exact in float64 up to 2**53."""
        fixed, units = self._matrices()
        return np.asarray(fixed + counts @ units.T, dtype=np.float64)

    def padded(self, counts: NDArray[Any], multiple: int) -> Floats:
        """As `of`, with the sizes that depend on groups rounded up to a multiple."""
        sizes, (_, units) = self.of(counts), self._matrices()
        groups = [place for name, place in self._columns.items() if not name.startswith(BLOCK)]
        varying = units[:, groups].any(axis=1)
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
