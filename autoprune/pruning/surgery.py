"""Surgery: cuts pruned units out of a model, in place. Only here do modules change their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import GraphError
from autoprune.graph import Indices, PruningGraph
from autoprune.pruning.computed_weights import computed_weights
from autoprune.pruning.sliding import check_positions, keep_positions


def prune(
    model: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> PruningGraph:
    """Prune `model` to the units in `kept_indices`, in place, and return the new graph.

    Groups that are not named are not pruned. Parameters keep their identity (an optimizer still
    holds them). Their gradients and state in `optimizer` are cut alike: numbers, and tensors of
    the parameter's shape or with size 1 in some dimensions; a parameter with state of any other
    shape starts with empty state. Sizes in attributes (`out_channels`, `num_features`, …) are
    corrected. What stays of a weight with a weight norm or a spectral norm is the same weight as
    before (until training estimates the spectral norm again, see `computed_weights`).

    Raises GraphError for units that do not exist or a model that does not fit the graph; the model
    is unchanged then.
    """
    cuts = kept_positions(graph, kept_indices)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    modules = dict(model.named_modules())
    for name, dims in cuts.items():
        if name in graph.positions:
            check_positions(modules.get(_owner(name)), _positions(graph, name))
        else:
            _check(name, parameters.get(name, buffers.get(name)), dims, graph)
    scales = {name: norm.scale() for name, norm in computed_weights(model).items() if name in cuts}
    with torch.no_grad():
        for name, dims in cuts.items():
            if name in graph.positions:
                layer = modules[_owner(name)]
                keep_positions(layer, _positions(graph, name), dims[0], _device(layer, model))
            elif name in parameters:
                _cut_parameter(parameters[name], dims, optimizer)
            else:
                _cut_buffer(model, name, buffers, dims)
        smaller_norms = computed_weights(model)
        for name, scale in scales.items():
            smaller_norms[name].keep(_cut(scale, _wide(scale, cuts[name])))
            smaller_norms[name].refresh()
    smaller = graph.shrink(kept_indices)
    _update_attributes(model, smaller)
    return smaller


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _positions(graph: PruningGraph, name: str) -> int:
    return graph.positions[name][0].size(graph.sizes())


def _device(layer: nn.Module, model: nn.Module) -> torch.device:
    """Where a layer computes: with parameters of its own, or with those of the model."""
    return next(iter(layer.parameters()), next(model.parameters())).device


def kept_positions(
    graph: PruningGraph, kept_indices: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, Indices]]:
    """The kept positions of every tensor that is cut: {tensor: {dim: ascending indices}}."""
    sizes = graph.sizes()
    cuts: dict[str, dict[int, Indices]] = {}
    for (name, dim), removed in graph.removed(kept_indices).items():
        is_kept = np.ones(graph.dims(name)[dim].size(sizes), dtype=bool)
        is_kept[removed] = False
        cuts.setdefault(name, {})[dim] = np.flatnonzero(is_kept)
    return cuts


def _check(
    name: str, tensor: Tensor | None, dims: Mapping[int, Indices], graph: PruningGraph
) -> None:
    sizes = graph.sizes()
    expected = tuple(dim.size(sizes) for dim in graph.dims(name))
    if tensor is None or tuple(tensor.shape) != expected:
        got = "no such tensor" if tensor is None else str(tuple(tensor.shape))
        raise GraphError(
            f"the model must fit the graph: {name} must have the shape {expected}, got {got} "
            "· trace this model again"
        )


def _cut_parameter(
    parameter: nn.Parameter, dims: Mapping[int, Indices], optimizer: torch.optim.Optimizer | None
) -> None:
    shape, gradient = parameter.shape, parameter.grad
    parameter.grad = None
    smaller = _cut(parameter.data, dims)
    _forget_accumulator(parameter)
    parameter.data = smaller
    if gradient is not None:
        parameter.grad = _cut(gradient, dims)
    if optimizer is not None and parameter in optimizer.state:
        optimizer.state[parameter] = _cut_state(optimizer.state[parameter], shape, dims)


def _forget_accumulator(parameter: nn.Parameter) -> None:
    """Let autograd make a new node for the parameter, of its new shape.

    What the model keeps of a forward pass (a stored activation, the weight of a weight norm) holds
    the old node, and PyTorch makes a new one only where the type of the data changes.
    """
    other = torch.float32 if parameter.dtype == torch.float64 else torch.float64
    if parameter.requires_grad:
        parameter.data = parameter.data.new_empty(0, dtype=other)


def _cut_state(
    state: Mapping[str, Any], shape: torch.Size, dims: Mapping[int, Indices]
) -> dict[str, Any]:
    """The optimizer state of a cut parameter of this former shape; empty where it cannot be cut."""
    cut: dict[str, Any] = dict(state)
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        if value.shape != shape and (
            value.dim() != len(shape)
            or any(mine not in (1, size) for mine, size in zip(value.shape, shape, strict=True))
        ):
            return {}
        cut[key] = _cut(value, _wide(value, dims))
    return cut


def _wide(tensor: Tensor, dims: Mapping[int, Indices]) -> dict[int, Indices]:
    """The cuts of dimensions that this tensor has."""
    return {d: rows for d, rows in dims.items() if d < tensor.dim() and tensor.shape[d] > 1}


def _cut_buffer(
    model: nn.Module, name: str, buffers: Mapping[str, Tensor], dims: Mapping[int, Indices]
) -> None:
    old = buffers[name]
    new = _cut(old, dims)
    for other, buffer in buffers.items():
        if buffer is old:
            path, _, leaf = other.rpartition(".")
            model.get_submodule(path)._buffers[leaf] = new


def _cut(tensor: Tensor, dims: Mapping[int, Indices]) -> Tensor:
    layout = torch.contiguous_format
    if tensor.dim() == 4 and not tensor.is_contiguous():
        layout = (
            torch.channels_last
            if tensor.is_contiguous(memory_format=torch.channels_last)
            else layout
        )
    for dim, indices in dims.items():
        tensor = tensor.index_select(dim, torch.from_numpy(indices).to(tensor.device))
    return tensor.contiguous(memory_format=layout)


def _update_attributes(model: nn.Module, graph: PruningGraph) -> None:
    sizes = graph.sizes()
    modules = dict(model.named_modules())
    for attribute in graph.attributes:
        values = tuple(dim.size(sizes) for dim in attribute.dims)
        value: Any = values[0] if attribute.scalar else values
        module = modules[attribute.module]
        if attribute.keys:
            value = _with(getattr(module, attribute.name), attribute.keys, value)
        setattr(module, attribute.name, value)


def _with(held: Any, keys: Sequence[str | int], value: Any) -> Any:
    """What an attribute holds with one integer inside of it replaced."""
    key, *rest = keys
    if isinstance(held, (tuple, list)):
        items = list(held)
        items[int(key)] = _with(items[int(key)], rest, value) if rest else value
        return type(held)(items)
    entries = held if isinstance(held, dict) else vars(held)
    entries[key] = _with(entries[key], rest, value) if rest else value
    return held
