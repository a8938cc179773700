"""Moments of a smaller model's inputs, and the repair of its sparse weights with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph import Indices, PruningGraph
from autoprune.pruning.calibration import Calibration, Moment
from autoprune.pruning.linear_ops import as_matrix, in_shape
from autoprune.pruning.obs import second
from autoprune.pruning.row_solve import refit_rows
from autoprune.pruning.surgery import kept_positions


def moments_after(
    graph: PruningGraph, kept: Mapping[str, Sequence[int]], calibration: Calibration
) -> dict[str, Moment]:
    """The moments of the model that keeps these units of `graph`, which is calibrated."""
    positions = kept_positions(graph, kept)
    return {
        name: _cut_moment(graph, name, moment, positions.get(name, {}))
        for name, moment in calibration.moments.items()
        if name in graph.parameters
    }


def cut_like(
    tensors: Mapping[str, Tensor], graph: PruningGraph, kept: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Tensors of the parameters' shapes (masks, gradients), cut as these are."""
    positions = kept_positions(graph, kept)
    found = {}
    for name, tensor in tensors.items():
        for dim, indices in positions.get(name, {}).items():
            tensor = tensor.index_select(dim, torch.from_numpy(indices).to(tensor.device))
        if name in graph.parameters:
            found[name] = tensor
    return found


def repair_rows(
    model: nn.Module, name: str, mask: Tensor, moment: Moment, *, predict_statistics: bool
) -> None:
    """Change the elements of a weight that are not in `mask`, in place, to make up for the others.

    The bias or the running mean behind takes the shift of the outputs' means, and with
    `predict_statistics` the running variance is that of the repaired outputs.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    weight, dim = parameters[name], moment.input_dim
    before, pruned = exact_matrix(weight, dim), exact_matrix(mask, dim) > 0
    blocks = len(moment.covariance)
    pairs = zip(before.chunk(blocks), pruned.chunk(blocks), strict=True)
    after = torch.cat([refit_rows(w, p, second(moment, b)) for b, (w, p) in enumerate(pairs)])
    weight.copy_(in_shape(after, weight.shape, dim))
    moves = (before - after).chunk(blocks)
    shift = torch.cat([part @ mean for part, mean in zip(moves, moment.mean, strict=True)])
    if moment.bias is not None:
        parameters[moment.bias].add_(shift.to(parameters[moment.bias]))
    elif moment.norm is not None:
        running = buffers[f"{moment.norm}.running_mean"]
        running.sub_(shift.to(running))
    if moment.norm is not None and predict_statistics:
        spread = _spread(after, moment) / _spread(before, moment).clamp_min(1e-30)
        variance = buffers[f"{moment.norm}.running_var"]
        variance.mul_(torch.where(_spread(before, moment) > 0.0, spread, 1.0).to(variance))


def exact_matrix(weight: Tensor, input_dim: int) -> Tensor:
    """(outputs, inputs) in float64 on the CPU, the columns in the order of a moment's."""
    return as_matrix(weight.detach().cpu().double(), input_dim)


def _spread(rows: Tensor, moment: Moment) -> Tensor:
    """The variance of each output."""
    parts = zip(rows.chunk(len(moment.covariance)), moment.covariance, strict=True)
    return torch.cat([((part @ covariance) * part).sum(1) for part, covariance in parts])


def _cut_moment(
    graph: PruningGraph, name: str, moment: Moment, positions: Mapping[int, Indices]
) -> Moment:
    sizes = graph.sizes()
    shape = [dim.size(sizes) for dim in graph.parameters[name]]
    taps = math.prod(shape[2:])
    kept = positions.get(moment.input_dim, np.arange(shape[moment.input_dim]))
    columns = torch.from_numpy((kept[:, None] * taps + np.arange(taps)).ravel())
    outputs = shape[1 - moment.input_dim]
    rows = positions.get(1 - moment.input_dim, np.arange(outputs))
    there = np.unique(rows // max(1, outputs // len(moment.covariance)))
    covariance = moment.covariance[there][:, columns][:, :, columns]
    return replace(moment, covariance=covariance, mean=moment.mean[there][:, columns])
