"""Closed-form repair: the kept inputs compensate for the removed ones.

A layer y = W x + b loses the inputs R and keeps S. With the covariance C of its inputs, the change
of the kept weights that restores the outputs best, in the least-squares sense, is

    D = argmin |W_R x_R - D x_S|² + λ |D|² = W_R C_RS (C_SS + λ I)⁻¹,    W_S ← W_S + D,

over centered inputs; the mean is corrected in the bias (or in the running mean of the batch
normalization that follows). λ is relative to the mean of C_SS's diagonal. Because the penalty is on
the *change*, the reconstruction error is never above that without repair, which is D = 0. Of a
weight with a mask (`torch.nn.utils.prune`) each row changes what the mask leaves (`row_solve`).

The least-squares update of pruning goes back to Optimal Brain Surgeon (Hassibi & Stork 1993); for
channels of convolutions see He et al. (2017), ThiNet (Luo et al. 2017) and Optimal Brain
Compression (Frantar & Alistarh 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import UsageError
from autoprune.pruning.calibration import Calibration, Forward, Moment, calibrate, evaluating, run
from autoprune.pruning.computed_weights import plain_weights
from autoprune.pruning.linear_ops import as_matrix, in_shape
from autoprune.pruning.obs import obs_scores
from autoprune.pruning.row_solve import refit_rows

if TYPE_CHECKING:
    from autoprune.graph import PruningGraph

__all__ = [
    "Calibration",
    "calibrate",
    "obs_scores",
    "predict_batchnorm",
    "reconstruction_errors",
    "reestimate_batchnorm",
    "repair",
]

RIDGE = 1e-4  # λ over the mean of the kept inputs' variances


class _Cut(NamedTuple):
    """One consumer: its weight as a matrix, and the kept rows and columns."""

    name: str
    moment: Moment
    weight: Tensor  # (outputs, blocks' inputs), float64, dense
    rows: Tensor
    columns: Tensor
    hidden: Tensor | None  # where a mask keeps elements of `weight` at 0


def repair(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    calibration: Calibration,
    *,
    ridge: float = RIDGE,
) -> None:
    """Repair, in place, every layer of `small` that lost inputs, by regularized least squares.

    `small` is the copy of `dense` after `surgery.prune(small, graph, kept_indices)`; `graph` is the
    dense model's and `kept_indices` holds the kept units of the dense model, by group. Layers
    without a moment in `calibration` keep their weights. `ridge` > 0 is λ over the mean of the kept
    inputs' variances. Batch normalization statistics are not changed except for the shift of the
    mean (see `reestimate_batchnorm`).
    """
    if not ridge > 0.0:
        raise UsageError(f"ridge must be above 0, got {ridge}")
    parameters = dict(small.named_parameters())
    buffers = dict(small.named_buffers())
    with torch.no_grad(), plain_weights(small), plain_weights(dense) as hidden:
        for cut in _cuts(dense, graph, kept_indices, calibration, hidden):
            moment = cut.moment
            fresh, shift = _solve(cut, ridge, centered=_absorbs_shift(moment))
            target = parameters[cut.name]
            target.copy_(in_shape(fresh, target.shape, moment.input_dim))
            if moment.bias is not None:
                parameters[moment.bias].add_(shift.to(target))
            elif moment.norm is not None:
                buffers[f"{moment.norm}.running_mean"].sub_(shift.to(target))


def predict_batchnorm(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    calibration: Calibration,
) -> None:
    """Scale the running variances behind repaired layers by the moments, without any data.

    A least-squares fit explains a part of the variance only, so outputs shrink; the running
    variance of the batch normalization behind the layer is multiplied with diag(W' C_SS W'ᵀ) over
    diag(W C Wᵀ), the dense one's. For a fast score of a candidate, after `repair`, in place of
    `reestimate_batchnorm`: changes of the inputs by earlier layers are ignored.
    """
    state = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    with plain_weights(small), plain_weights(dense) as hidden:
        for cut in _cuts(dense, graph, kept_indices, calibration, hidden):
            if cut.moment.norm is None:
                continue
            ratio = torch.ones(len(cut.rows), dtype=torch.float64)
            repaired = _matrix(state[cut.name], cut)
            whole = cut.weight[cut.rows]
            for block, own in _blocks(cut):
                second = cut.moment.covariance[block]
                kept = second[cut.columns][:, cut.columns]
                before = ((whole[own] @ second) * whole[own]).sum(1)
                after = ((repaired[own] @ kept) * repaired[own]).sum(1)
                ratio[own] = torch.where(before > 0.0, after / before, 1.0)
            variance = state[f"{cut.moment.norm}.running_var"]
            variance.mul_(ratio.to(variance))


def reconstruction_errors(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    calibration: Calibration,
) -> dict[str, float]:
    """Mean squared output error of each layer that lost inputs, on the calibration's moments.

    Keys are the weights' names; a value is the error of `small`'s weight and bias summed over its
    outputs, over the outputs' variance in the dense model (0 = nothing lost, about 1 = all lost).
    """
    state = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    original = {**dict(dense.named_parameters()), **dict(dense.named_buffers())}
    errors = {}
    with plain_weights(small), plain_weights(dense) as hidden:
        for cut in _cuts(dense, graph, kept_indices, calibration, hidden):
            moment, shift = cut.moment, torch.zeros(len(cut.rows), dtype=torch.float64)
            key = moment.bias or (f"{moment.norm}.running_mean" if moment.norm else None)
            if key is not None:
                sign = 1.0 if moment.bias else -1.0
                shift = sign * (state[key] - original[key][cut.rows]).detach().cpu().double()
            change = -cut.weight[cut.rows]
            change[:, cut.columns] += _matrix(state[cut.name], cut)
            lost, total = 0.0, 0.0
            for block, own in _blocks(cut):
                part, covariance = change[own], moment.covariance[block]
                lost += float(((part @ covariance) * part).sum())
                lost += float((part @ moment.mean[block] + shift[own]).square().sum())
                whole = cut.weight[cut.rows][own]
                total += float(((whole @ covariance) * whole).sum())
            errors[cut.name] = lost / total if total > 0.0 else 0.0
    return errors


def reestimate_batchnorm(
    model: nn.Module, batches: Iterable[Any], *, forward: Forward | None = None
) -> None:
    """Set the running statistics of every batch normalization to the average over `batches`.

    The average is cumulative (every batch counts the same) and starts anew; only batch
    normalizations see training mode, so dropout is off. Momentum, modes and the random state are
    restored. Models without batch normalization are unchanged. Batches as in `calibrate`.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the cumulative average
            norm.train()
        try:
            for batch in batches:
                run(model, batch, forward)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _matrix(weight: Tensor, cut: _Cut) -> Tensor:
    """The smaller model's weight as (rows, columns) in float64 on the CPU."""
    return as_matrix(weight.detach().cpu().double(), cut.moment.input_dim)


def _absorbs_shift(moment: Moment) -> bool:
    return moment.bias is not None or moment.norm is not None


def _cuts(
    dense: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    calibration: Calibration,
    masks: Mapping[str, Tensor],
) -> Iterable[_Cut]:
    """The layers with a moment that lose inputs; `masks` as `plain_weights` gives them."""
    weights = dict(dense.named_parameters())
    removed = graph.removed(kept_indices)
    for name, moment in calibration.moments.items():
        lost = removed.get((name, moment.input_dim))
        if lost is None:
            continue
        weight = weights[name].detach().cpu().double()
        columns = _kept(weight.shape[moment.input_dim], lost)
        taps = math.prod(weight.shape[2:])
        columns = (columns[:, None] * taps + torch.arange(taps)).flatten()
        matrix = as_matrix(weight, moment.input_dim)
        rows = _kept(len(matrix), removed.get((name, 1 - moment.input_dim)))
        hidden = as_matrix(masks[name], moment.input_dim) if name in masks else None
        yield _Cut(name, moment, matrix, rows, columns, hidden)


def _kept(size: int, removed: np.ndarray | None) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    if removed is not None:
        mask[torch.from_numpy(removed)] = False
    return mask.nonzero()[:, 0]


def _blocks(cut: _Cut) -> Iterable[tuple[int, Tensor]]:
    """Each block of the moment with the positions (among the kept rows) of its outputs."""
    per_block = cut.weight.shape[0] // cut.moment.covariance.shape[0]
    for block in range(cut.moment.covariance.shape[0]):
        own = (cut.rows // per_block == block).nonzero()[:, 0]
        if len(own):
            yield block, own


def _solve(cut: _Cut, ridge: float, *, centered: bool) -> tuple[Tensor, Tensor]:
    """The repaired weight (rows, columns) and the shift of the outputs that goes with it."""
    weight = cut.weight[cut.rows]
    fresh, shift = weight[:, cut.columns], torch.zeros(len(cut.rows), dtype=torch.float64)
    removed = _complement(cut.columns, weight.shape[1])
    for block, own in _blocks(cut):
        mean, second = cut.moment.mean[block], cut.moment.covariance[block]
        if not centered:
            second = second + mean[:, None] * mean[None, :]
        if cut.hidden is not None:
            zeros = cut.hidden[cut.rows][own]
            zeros[:, removed] = True
            rows = refit_rows(weight[own], zeros, second, ridge=ridge)
            fresh[own] = rows[:, cut.columns]
            if centered:
                shift[own] = (weight[own] - rows) @ mean
            continue
        lost = weight[own][:, removed]
        cross = lost @ second[removed][:, cut.columns]
        change = _ridge_solve(second[cut.columns][:, cut.columns], cross, ridge)
        fresh[own] += change
        if centered:
            shift[own] = lost @ mean[removed] - change @ mean[cut.columns]
    return fresh, shift


def _complement(kept: Tensor, size: int) -> Tensor:
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return mask.nonzero()[:, 0]


def _ridge_solve(second: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """`cross` (second + λ I)⁻¹, with λ raised until the factorization succeeds."""
    scale = float(second.diagonal().mean())
    if scale <= 0.0:  # constant inputs
        return torch.zeros_like(cross)
    eye = torch.eye(second.shape[0], dtype=second.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(second + ridge * scale * eye)
        if not failed:
            return torch.cholesky_solve(cross.T, factor).T
        ridge *= 10.0
