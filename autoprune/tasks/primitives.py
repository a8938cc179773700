"""How many compiled operations oneDNN, PyTorch's library for CPUs, keeps in a process.

oneDNN compiles each operation for the shapes that it meets, and keeps the last 1,024, which are
some megabytes each (`scripts/benchmarks/overhead/growth.py`). A search meets new shapes with every
candidate: gigabytes that nothing uses again. A cache of all that one model and its teacher need is
as fast.
"""

from __future__ import annotations

import os

from torch import nn

VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_LEAST, _MOST = 128, 1024  # the most is oneDNN's own
_PER_LAYER = 12  # forward, both gradients, copies of weights; model and teacher; two batch sizes


def capacity_for(model: nn.Module) -> int:
    """How many operations are kept for a search that starts from this model."""
    layers = sum(any(p.dim() > 1 for p in m.parameters(recurse=False)) for m in model.modules())
    return min(_MOST, max(_LEAST, _PER_LAYER * layers))


def limit_kept_operations(model: nn.Module) -> None:
    """Limit what this process and those it starts keep, unless the variable is set.

    oneDNN reads it at its first operation: later it has no effect.
    """
    os.environ.setdefault(VARIABLE, str(capacity_for(model)))
