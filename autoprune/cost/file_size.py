"""The size of a model's packed file, predicted from what packing the dense model gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.graph import PruningGraph
from autoprune.patterns import position_bits, sparsity_of
from autoprune.store import pack, packed_parts, recipe_of

MARGIN = 0.03  # by how much a small file may be above its prediction
_MASK = 1.02  # bytes of the coded places of zeros over their entropy
_PATTERN = 5.0  # bytes of the header for each pattern


@dataclass(frozen=True, slots=True)
class FileSize:
    """A packed file's bytes: `fixed`, and `density` bytes for each byte of the values in it."""

    fixed: float
    density: float

    @staticmethod
    def of(state: Mapping[str, torch.Tensor], graph: PruningGraph, task: str = "") -> FileSize:
        """As the dense model of this graph, with these weights, is packed."""
        sizes = graph.sizes()
        kept = {name: range(size) for name, size in sizes.items()}
        recipe = recipe_of(Candidate(Architecture.dense(sizes)), kept, task=task)
        head, values = packed_parts(pack(recipe, state))
        raw = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        return FileSize(float(head), values / max(1, raw))

    def share(self, pattern: str, shape: Sequence[float], itemsize: float) -> float:
        """The bytes of a weight of this shape with a pattern, over those without.

        `shape` begins with outputs and inputs.
        """
        inputs = int(shape[1]) if len(shape) > 1 else 1
        zeros = sparsity_of(pattern, inputs)
        places = _MASK * position_bits(pattern) / 8.0
        return 1.0 - zeros + places / (itemsize * self.density)

    def total(self, raw: float, patterns: int = 0) -> float:
        """The whole file, whose values are `raw` bytes (a pattern's share of them counted)."""
        return self.fixed + _PATTERN * patterns + self.density * raw
