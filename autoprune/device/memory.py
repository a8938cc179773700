"""The peak memory of activations in a runtime, fitted to measured prunings."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares
from torch import nn

from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.cost.activations import COUNTED, Activations, PeakMemory
from autoprune.cost.inputs import Inputs
from autoprune.cost.model import CostModel
from autoprune.cost.sizes import Sizes
from autoprune.cost.targets import find_target
from autoprune.device.sampling import Convert, pruned, random_architectures
from autoprune.graph import PruningGraph

_PRUNINGS = 12
_RIDGE = 1e-3  # stabilizes the fit where columns are collinear or empty
_USUAL = 0.03  # relative errors above count less: some widths make a runtime copy once more
_COVERED = 0.8  # of the measurements lie below the upper bound


def fit_peak_memory(
    model: nn.Module,
    graph: PruningGraph,
    example_inputs: Inputs,
    *,
    runtime: str,
    threads: int = 1,
    seed: int = 0,
    int8: Convert | None = None,
) -> PeakMemory:
    """Measure the dense model and 12 random prunings in `runtime`, and fit to relative errors.

    `int8` makes of each the int8 model that is measured instead.
    The fit is robust (`soft_l1` of `scipy.optimize.least_squares`): single models for which the
    runtime needs much more than for others of their size neither bend it nor widen its bound. If
    the runtime does not report its memory, the count is used.
    """
    target = find_target(runtime)
    chosen = [Architecture(), *random_architectures(graph, _PRUNINGS, seed)]
    rows, measured = [], []
    precision = INT8 if int8 else FLOAT32
    activations = Activations(graph, Sizes(graph.columns()), precision)
    costs = CostModel(graph, precision=precision)
    for architecture in chosen:
        small = pruned(model, graph, architecture)
        measurable = int8(small) if int8 else small
        found = target.peak_memory(measurable, example_inputs, threads)
        if found is None:
            return COUNTED
        counts = np.array([list(graph.counts(architecture).values())])
        inputs, *peaks = activations.peaks(counts)[0]
        held = costs.cost(architecture, ["weight_bytes"]).get("weight_bytes")
        rows.append([held + inputs, *peaks])
        measured.append(found)
    x, y = np.array(rows), np.array(measured, dtype=np.float64)
    relative = np.concatenate([x[:, 1:] / y[:, None], _RIDGE * np.eye(4)])
    target_ratio = np.concatenate([1.0 - x[:, 0] / y, np.zeros(4)])
    weights = least_squares(
        lambda tried: relative @ tried - target_ratio,
        x0=[0.5] * 4,
        bounds=(0.0, np.inf),
        loss="soft_l1",
        f_scale=_USUAL,
    ).x
    predicted = x @ np.array([1.0, *weights])
    over = float(np.quantile(y / predicted, _COVERED))
    plain, padded, buffer, sums = map(float, weights)
    return PeakMemory(plain, padded, buffer, sums, max(1.0, over))
