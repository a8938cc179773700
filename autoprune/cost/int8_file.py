"""The size of an int8 ONNX file, as a function of what is in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.cost.int8_weights import int8_copies
from autoprune.cost.sizes import Floats, Sizes
from autoprune.graph import PruningGraph


@dataclass(frozen=True, slots=True)
class Int8File:
    """Bytes for each element in int8, each output channel of a matrix, and each operator.

    Elements of what stays float32 count four times. `fixed` is what every file of the model has. A
    file is at most `margin` above its prediction, as far as those go that it was fitted to.
    """

    fixed: float
    element: float
    channel: float
    operator: float
    margin: float

    def of(self, parts: Floats) -> Floats:
        """`candidates x 4`, as `Int8Parts` has them → bytes."""
        return np.asarray(parts @ [self.fixed, self.element, self.channel, self.operator])


class Int8Parts:
    """What takes bytes in an int8 file: elements and channels of matrices, operators."""

    def __init__(self, graph: PruningGraph, sizes: Sizes) -> None:
        copies = int8_copies(graph)
        matrices = {name: graph.parameters[name] for name in copies}
        there = {name: graph.presence_of(name) for name in matrices}
        self._itemsizes = np.array([count or 4.0 for count in copies.values()])
        self._sizes = sizes
        self._elements = sizes.products((*dims, *there[n]) for n, dims in matrices.items())
        self._channels = sizes.products((dims[0], *there[n]) for n, dims in matrices.items())
        self._operators = sizes.products(graph.present())

    def of(self, counts: NDArray[np.int64]) -> Floats:
        """`candidates x columns` → `candidates x 4`: 1, elements, output channels, operators."""
        sizes = self._sizes.of(counts)
        elements = self._elements.of(sizes) @ self._itemsizes
        sums = [elements, *(p.of(sizes).sum(axis=1) for p in (self._channels, self._operators))]
        return np.stack([np.ones(len(counts)), *sums], axis=1)
