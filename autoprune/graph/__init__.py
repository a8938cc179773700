"""Model → coupled groups: channel ids flow through the model's own operations."""

from autoprune.graph.trace import trace
from autoprune.graph.types import (
    Attribute,
    Block,
    Dim,
    Frozen,
    Group,
    Indices,
    Op,
    PruningGraph,
    Slice,
    TensorInfo,
)

__all__ = [
    "Attribute",
    "Block",
    "Dim",
    "Frozen",
    "Group",
    "Indices",
    "Op",
    "PruningGraph",
    "Slice",
    "TensorInfo",
    "trace",
]
