"""Sparse weights: which elements are zero, held at zero in training, and the rest repaired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

from autoprune.errors import UsageError
from autoprune.graph import Indices, PruningGraph
from autoprune.graph.views import RULES as VIEWS
from autoprune.patterns import of_groups, sparsity
from autoprune.pruning.calibration import Calibration, Moment
from autoprune.pruning.obs import second
from autoprune.pruning.row_solve import refit_rows
from autoprune.pruning.surgery import kept_positions
from autoprune.pruning.weight_importance import SingleWeight, WeightMethod, magnitude

Masks = dict[str, Tensor]
"""Parameter → where it is zero, in its own shape and on its device."""


def sparse_weights(model: nn.Module, graph: PruningGraph) -> dict[str, int]:
    """The weights that can have a pattern: name → the dimension of its inputs.

    Those are all that are only used in contractions, and have several inputs for each output (a
    depthwise convolution has one).
    """
    used, elsewhere = set[str](), set[str]()
    for op in graph.ops:
        if op.macs or op.name not in VIEWS:
            (used if op.macs else elsewhere).update(op.parameters)
    parameters = dict(model.named_parameters())
    found = {}
    for name in graph.parameters:
        if name in used - elsewhere and name in parameters and parameters[name].dim() > 1:
            dim = _input_dim(model, graph, name)
            if parameters[name].shape[dim] > 1:
                found[name] = dim
    return found


def choose(scores: Tensor, pattern: str, dim: int) -> Tensor:
    """Where a weight with this pattern is zero: at the lowest `scores`, of its shape.

    Of equal scores at the first ones. `dim` is the dimension of the inputs. A sparsity s of n
    elements is s n zeros, rounded (halves up), fewer than n.

    >>> choose(torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0]]), "2:4", 1).long()
    tensor([[0, 1, 0, 1, 0]])
    >>> choose(torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0]]), "0.5", 1).long()
    tensor([[0, 1, 1, 1, 0]])
    """
    groups = of_groups(pattern)
    if groups is None:
        zeros = min(math.floor(sparsity(pattern) * scores.numel() + 0.5), scores.numel() - 1)
        order = scores.flatten().sort(stable=True).indices
        mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        mask[order[:zeros]] = True
        return mask.view(scores.shape)
    kept, size = groups
    lines = scores.movedim(dim, -1)
    padded = nn.functional.pad(lines, (0, -lines.shape[-1] % size), value=-math.inf)
    grouped = padded.reshape(*padded.shape[:-1], -1, size)
    order = grouped.sort(dim=-1, stable=True).indices
    mask = torch.zeros(grouped.shape, dtype=torch.bool, device=scores.device)
    mask.scatter_(-1, order[..., : size - kept], value=True)
    return mask.flatten(-2)[..., : lines.shape[-1]].movedim(-1, dim)


@dataclass(frozen=True, eq=False)
class Choice:
    """How zeros are chosen: `method` scores the elements.

    By the loss's `gradients` and the `calibration` of the model before, where it needs them.
    """

    method: WeightMethod = magnitude
    gradients: Mapping[str, Tensor] | None = None
    calibration: Calibration | None = None


def sparsify(
    model: nn.Module,
    graph: PruningGraph,
    patterns: Mapping[str, str],
    choice: Choice,
    *,
    zeros: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, Moment] | None = None,
    repair: bool = True,
    predict_statistics: bool = True,
    optimizer: Optimizer | None = None,
) -> Masks:
    """Set elements of weights to zero, in place, and say which.

    `graph`, `moments` (of the inputs) and the gradients in `choice` are the model's as it is now.
    Elements in `zeros` (of an earlier pattern) are zero first. With `repair` and moments the other
    elements of each row are repaired, the bias or running mean behind takes the shift, and
    (`predict_statistics`) the running variance is corrected. State of the `optimizer` is zero where
    its weight is. Raises UsageError for a weight that cannot have
    a pattern.
    """
    dims = sparse_weights(model, graph)
    parameters = dict(model.named_parameters())
    masks = {}
    with torch.no_grad():
        for name, pattern in patterns.items():
            if name not in dims:
                raise UsageError(
                    f"patterns[{name!r}]: only a weight of a layer with several inputs can have "
                    "one, and no other use"
                )
            weight, moment = parameters[name], (moments or {}).get(name)
            gradient = (choice.gradients or {}).get(name)
            earlier = (zeros or {}).get(name)
            mask = _choose(weight, pattern, dims[name], choice.method, gradient, moment, earlier)
            if repair and moment is not None:
                _repair(model, name, mask, moment, predict_statistics=predict_statistics)
            weight.masked_fill_(mask, 0.0)
            masks[name] = mask
            _clear(optimizer, weight, mask)
    return masks


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


class HeldMasks:
    """Keeps elements of a model's weights exactly zero, whatever the optimizer does."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        """Bind the masks to the model's parameters as they are now."""
        parameters = dict(model.named_parameters())
        self._pairs = [
            (parameters[name], mask.to(parameters[name].device)) for name, mask in masks.items()
        ]

    def clear_gradients(self) -> None:
        """Before the optimizer's step (and before gradients are clipped): no pull on the zeros."""
        for parameter, mask in self._pairs:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    def clear_weights(self) -> None:
        """After the optimizer's step: weight decay and momentum have moved nothing."""
        with torch.no_grad():
            for parameter, mask in self._pairs:
                parameter.masked_fill_(mask, 0.0)


def _choose(
    weight: Tensor,
    pattern: str,
    dim: int,
    method: WeightMethod,
    gradient: Tensor | None,
    moment: Moment | None,
    earlier: Tensor | None,
) -> Tensor:
    values = _matrix(weight, dim)
    slope = None if gradient is None else _matrix(gradient, dim)
    scores = method(SingleWeight(values, slope, moment))
    if scores.shape != values.shape or not bool(torch.isfinite(scores).all()):
        raise UsageError(
            f"the importance of single weights must be finite and of shape {tuple(values.shape)}, "
            f"got {tuple(scores.shape)}"
        )
    whole = _shaped(scores, weight, dim)
    if earlier is not None:
        whole = whole.masked_fill(earlier.to(whole.device), torch.finfo(whole.dtype).min)
    return choose(whole, pattern, dim).to(weight.device)


def _repair(
    model: nn.Module, name: str, mask: Tensor, moment: Moment, *, predict_statistics: bool
) -> None:
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    weight, dim = parameters[name], moment.input_dim
    before, pruned = _matrix(weight, dim), _matrix(mask, dim) > 0
    blocks = len(moment.covariance)
    pairs = zip(before.chunk(blocks), pruned.chunk(blocks), strict=True)
    after = torch.cat([refit_rows(w, p, second(moment, b)) for b, (w, p) in enumerate(pairs)])
    weight.copy_(_shaped(after, weight, dim))
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


def _clear(optimizer: Optimizer | None, weight: Tensor, mask: Tensor) -> None:
    for value in (optimizer.state.get(weight, {}) if optimizer is not None else {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(mask, 0.0)


def _matrix(weight: Tensor, dim: int) -> Tensor:
    """(outputs, inputs) in float64 on the CPU, the columns in the order of a moment's."""
    weight = weight.detach().cpu().double()
    return (weight if dim == 1 else weight.transpose(0, 1)).flatten(1)


def _shaped(matrix: Tensor, weight: Tensor, dim: int) -> Tensor:
    """The inverse of `_matrix`, in the weight's shape."""
    if dim == 1:
        return matrix.reshape(weight.shape)
    shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
    return matrix.reshape(shape).transpose(0, 1)


def _input_dim(model: nn.Module, graph: PruningGraph, name: str) -> int:
    path = name.rpartition(".")[0]
    module = model.get_submodule(path)
    if isinstance(module, _ConvTransposeNd):
        return 0
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return 1
    for group in graph.groups:
        for piece in group.slices:
            if piece.tensor == name and piece.role != "affine" and piece.dim < 2:
                return piece.dim if piece.role == "in" else 1 - piece.dim
    return 1
