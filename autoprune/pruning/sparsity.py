"""Sparse weights: which elements are zero, held at zero in training, and the rest repaired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer

from autoprune.errors import UsageError
from autoprune.graph import PruningGraph
from autoprune.graph.views import RULES as VIEWS
from autoprune.patterns import of_groups, sparsity
from autoprune.pruning.calibration import Calibration, Moment
from autoprune.pruning.linear_ops import in_shape
from autoprune.pruning.sparse_repair import exact_matrix, repair_rows
from autoprune.pruning.weight_importance import SingleWeight, WeightMethod, magnitude

Masks = dict[str, Tensor]
"""Parameter → where it is zero, in its own shape and on its device."""


def sparse_weights(model: nn.Module, graph: PruningGraph) -> dict[str, int]:
    """The weights that can have a pattern: name → the dimension of its inputs.

    Those are all that are only used in contractions, except for depthwise convolutions: they are
    small, and each output has a single input.
    """
    used, elsewhere = set[str](), set[str]()
    for op in graph.ops:
        if op.macs or op.name not in VIEWS:
            (used if op.macs else elsewhere).update(op.parameters)
    parameters = dict(model.named_parameters())
    return {
        name: _input_dim(model, graph, name)
        for name in graph.parameters
        if name in used - elsewhere and name in parameters and parameters[name].dim() > 1
        if not _is_depthwise(model.get_submodule(name.rpartition(".")[0]))
    }


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
    """How weights become sparse: `method` scores their elements.

    By the loss's `gradients` and the `calibration` of the model before, where it needs them. With
    `repair` the other elements of each row are changed to make up for the zeros, and with
    `predict_statistics` the running variance behind is corrected (`sparse_repair.repair_rows`).
    """

    method: WeightMethod = magnitude
    gradients: Mapping[str, Tensor] | None = None
    calibration: Calibration | None = None
    repair: bool = False
    predict_statistics: bool = True


def sparsify(
    model: nn.Module,
    graph: PruningGraph,
    patterns: Mapping[str, str],
    choice: Choice,
    *,
    zeros: Mapping[str, Tensor],
    moments: Mapping[str, Moment],
    optimizer: Optimizer | None = None,
) -> Masks:
    """Set elements of weights to zero, in place, and say which.

    `graph`, `moments` (of the inputs) and the gradients in `choice` are the model's as it is now.
    Elements in `zeros` (of an earlier pattern) are zero first. Weights without a moment are not
    repaired. State of the `optimizer` is zero where its weight is. Raises UsageError for a weight
    that cannot have a pattern.
    """
    dims = sparse_weights(model, graph)
    parameters = dict(model.named_parameters())
    masks = {}
    for name, pattern in patterns.items():
        if name not in dims:
            raise UsageError(
                f"patterns[{name!r}]: only a weight that is only used in matrix products or "
                "convolutions, not depthwise, can have one"
            )
        weight, moment = parameters[name], moments.get(name)
        scores = _scores(name, weight, dims[name], choice, moment)
        if name in zeros:
            earlier = zeros[name].to(scores.device)
            scores = scores.masked_fill(earlier, torch.finfo(scores.dtype).min)
        masks[name] = mask = choose(scores, pattern, dims[name]).to(weight.device)
        with torch.no_grad():
            if choice.repair and moment is not None:
                statistics = choice.predict_statistics
                repair_rows(model, name, mask, moment, predict_statistics=statistics)
            weight.masked_fill_(mask, 0.0)
        _clear(optimizer, weight, mask)
    return masks


def _scores(name: str, weight: Tensor, dim: int, choice: Choice, moment: Moment | None) -> Tensor:
    gradient = (choice.gradients or {}).get(name)
    values = exact_matrix(weight, dim)
    slope = None if gradient is None else exact_matrix(gradient, dim)
    scores = choice.method(SingleWeight(values, slope, moment))
    if scores.shape != values.shape or not bool(torch.isfinite(scores).all()):
        raise UsageError(
            f"the importance of single weights must be finite and of shape {tuple(values.shape)}, "
            f"got {tuple(scores.shape)} for {name}"
        )
    return in_shape(scores, weight.shape, dim)


def _clear(optimizer: Optimizer | None, weight: Tensor, mask: Tensor) -> None:
    for value in (optimizer.state.get(weight, {}) if optimizer is not None else {}).values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(mask, 0.0)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels


def _input_dim(model: nn.Module, graph: PruningGraph, name: str) -> int:
    path = name.rpartition(".")[0]
    module = model.get_submodule(path)
    if isinstance(module, _ConvTransposeNd):
        return 0
    if isinstance(module, nn.Linear | _ConvNd):
        return 1
    for group in graph.groups:
        for piece in group.slices:
            if piece.tensor == name and piece.role != "affine" and piece.dim < 2:
                return piece.dim if piece.role == "in" else 1 - piece.dim
    return 1
