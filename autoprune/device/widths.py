"""Efficient widths: the step of channels in which a device's latencies rise."""

from __future__ import annotations

from collections.abc import Collection

from autoprune.device import fitting
from autoprune.device.features import LatencyFeatures
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import rows_of
from autoprune.graph import PruningGraph

STEPS = (1, 4, 8, 16)
_CLEARLY = 0.9  # of the error


def efficient_step(graph: PruningGraph, predictors: Collection[LatencyPredictor]) -> int | None:
    """The number of channels of which efficient widths are multiples; None without measurements.

    Kernels that work on blocks of channels take as long for a partial block, or are replaced by
    slower ones. Of 1, 4, 8 and 16, the step whose features give the smallest cross-validation
    error, summed over the devices. A coarser step must lower the error by a tenth.
    """
    if not predictors:
        return None
    best, least = 1, float("inf")
    for step in STEPS:
        error = sum(_error(graph, predictor, step) for predictor in predictors)
        if error < _CLEARLY * least:
            best, least = step, error
    return best


def _error(graph: PruningGraph, predictor: LatencyPredictor, step: int) -> float:
    known = (step,) if step > 1 else ()
    features = LatencyFeatures(graph, blocks=known, steps=known)
    x, y = rows_of(features, predictor.samples)
    return fitting.best_penalty(x, y, features.shared)[1]
