"""Which parameters an int8 file of ONNX Runtime holds in int8, and how often."""

from __future__ import annotations

import re
from collections import defaultdict

from autoprune.graph import PruningGraph

_RECURRENT = re.compile(r"(^|\.)weight_(ih|hh|hr)_l\d+(_reverse)?$")
"""Names that `nn.RNN`, `nn.GRU` and `nn.LSTM` give to their matrices."""
_PRODUCTS = frozenset(("mm", "addmm", "linear", "bmm", "baddbmm", "matmul"))


def int8_copies(graph: PruningGraph) -> dict[str, int]:
    """By name, how often each matrix or filter is stored in int8: 0 where it stays float32.

    Matrices of recurrent layers and of embedding bags stay: static quantization has no operator for
    them. A tied embedding is stored twice: looked up by rows, multiplied by columns.
    """
    readers: dict[str, set[str]] = defaultdict(set)
    for op in graph.ops:
        for name in op.parameters:
            readers[name].add(op.name)
    return {
        name: _copies(name, readers[name])
        for name, dims in graph.parameters.items()
        if len(dims) > 1
    }


def _copies(name: str, readers: set[str]) -> int:
    if _RECURRENT.search(name) or "_embedding_bag" in readers:
        return 0
    return 2 if "embedding" in readers and readers & _PRODUCTS else 1
