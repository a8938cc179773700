"""Costs of architectures in the precision that each names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.architecture import FLOAT32, IN_FLOAT, INT8, Architecture
from autoprune.budget import Cost
from autoprune.cost.analytic import count
from autoprune.cost.inputs import Inputs
from autoprune.cost.model import CostModel
from autoprune.cost_fields import MEMORY
from autoprune.graph import trace

Prices = Callable[[NDArray[np.int64], Collection[str]], Mapping[str, NDArray[np.float64]]]
"""Costs by field of `candidates x items` (see `FittedSpace.items`): arrays over the candidates."""


class PrecisionCosts:
    """One `CostModel` for each precision; without int8 the same as that of float32."""

    def __init__(self, models: Mapping[str, CostModel]) -> None:
        self.models = models

    @property
    def dense(self) -> Cost:
        """The cost of the unpruned model in float32, which relative limits refer to."""
        return self.models[FLOAT32].dense

    def cost(self, architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        """The cost of an architecture in its precision, as `CostModel.cost`."""
        return self.models[architecture.precision].cost(architecture, fields)

    def prices(
        self, counts: NDArray[np.int64], fields: Collection[str]
    ) -> dict[str, NDArray[np.float64]]:
        """As `CostModel.prices`; where int8 is known, one more column is 0 for such candidates."""
        if INT8 not in self.models:
            return self.models[FLOAT32].prices(counts, fields)
        counts, in_float = counts[:, :-1], counts[:, -1] > 0
        found = {name: np.zeros(len(counts)) for name in fields}
        for precision, rows in ((FLOAT32, in_float), (INT8, ~in_float)):
            if rows.any():
                prices = self.models[precision].prices(counts[rows], fields)
                for name, values in found.items():
                    values[rows] = prices[name]
        return found

    def prices_of(self, items: Sequence[str]) -> Prices:
        """`prices` of counts that have these columns alone: all groups, and some of the blocks.

        Of the others, which are kept, the count is 1.
        """
        columns = [*self.models[FLOAT32].graph.columns()]
        whole = [*columns, IN_FLOAT] if INT8 in self.models else columns
        if whole == list(items):
            return self.prices
        places = [whole.index(name) for name in items]

        def prices(
            counts: NDArray[np.int64], fields: Collection[str]
        ) -> dict[str, NDArray[np.float64]]:
            every = np.ones((len(counts), len(whole)), dtype=np.int64)
            every[:, places] = counts
            return self.prices(every, fields)

        return prices


def int8_cost(model: nn.Module, example_inputs: Inputs) -> Cost:
    """As `count_cost` of the model in int8.

    `weight_bytes` is what `CostModel` counts, without the folding of batch normalizations, which
    need less in the file; activations take a byte an element, inputs and outputs what they take in
    float32. Raises GraphError where the model cannot be traced.

    >>> import torch
    >>> int8_cost(nn.Linear(100, 10), torch.zeros(1, 100)).weight_bytes
    1080
    """
    counted = count(model, example_inputs, INT8).cost
    in_int8 = CostModel(trace(model, example_inputs), precision=INT8)
    weights = in_int8.cost(Architecture(), ["weight_bytes"]).get("weight_bytes")
    live = counted.get(MEMORY) - counted.get("weight_bytes")
    return dataclasses.replace(
        counted, weight_bytes=int(weights), peak_memory_bytes=int(weights + live)
    )
