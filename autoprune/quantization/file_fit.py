"""The size of int8 files, fitted to written ones."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls
from torch import nn

from autoprune.architecture import Architecture
from autoprune.cost.inputs import frozen_copy
from autoprune.cost.int8_file import Int8File, Int8Parts
from autoprune.cost.sizes import Sizes
from autoprune.device.sampling import pruned, random_architectures
from autoprune.graph import PruningGraph
from autoprune.graph.replica import plain
from autoprune.quantization.static import calibration_calls, quantize_on
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task

_PRUNINGS = 10
_WRITTEN = QuantizationSettings(method="minmax", samples=32)  # the ranges do not change the size


def fit_int8_file(model: nn.Module, graph: PruningGraph, task: Task, *, seed: int = 0) -> Int8File:
    """Write the dense model and ten random prunings in int8, and fit to relative errors.

    No coefficient is below 0. Raises ExportError where the model cannot be written or quantized.
    """
    chosen = [Architecture(), *random_architectures(graph, _PRUNINGS, seed)]
    counts = np.array([list(graph.counts(each).values()) for each in chosen])
    calls, example = (
        calibration_calls(frozen_copy(plain(model)), task, _WRITTEN),
        task.example_input(),
    )
    written = []
    for each in chosen:
        small = frozen_copy(plain(pruned(model, graph, each)))
        written.append(len(quantize_on(calls, small, example, _WRITTEN).int8.data))
    sizes = np.array(written, dtype=np.float64)
    parts = Int8Parts(graph, Sizes(graph.columns())).of(counts)
    found, _ = nnls(parts / sizes[:, None], np.ones(len(sizes)))
    margin = float(np.max(sizes / (parts @ found))) - 1.0
    fixed, element, channel, operator = map(float, found)
    return Int8File(fixed, element, channel, operator, margin)
