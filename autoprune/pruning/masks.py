"""A masked model: the pruned model's outputs in the dense model's shapes; pruned units are zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.graph import Indices, PruningGraph
from autoprune.graph.caller import following
from autoprune.graph.calls import Call
from autoprune.graph.flow import Flow
from autoprune.graph.norms import BATCH_NORMS
from autoprune.graph.replica import replica
from autoprune.graph.rules import DIVISORS, RULES, reduced
from autoprune.graph.statistics import REDUCTIONS, SUMS
from autoprune.pruning.computed_weights import computed_weights
from autoprune.pruning.surgery import kept_positions


def masked(
    model: nn.Module, graph: PruningGraph, kept_indices: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy of the same shapes whose outputs equal those of the model pruned to `kept_indices`.

    Pruned units are zero where they are produced, in the norms behind, and where they are consumed
    (an activation may not map zero to zero). Means, variances and extremes over channels (of
    LayerNorm, GroupNorm, RMSNorm, or written out) are over the kept units. What is kept of a weight
    with a weight norm or a spectral norm is the same weight as before.
    """
    result = replica(model)
    held = dict(result.named_parameters(remove_duplicate=False))
    held.update(result.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
    kept = kept_positions(graph, kept_indices)
    norms = {name: norm for name, norm in computed_weights(result).items() if name in kept}
    scales = {name: norm.scale() for name, norm in norms.items()}
    with torch.no_grad():
        for name in kept.keys() - graph.positions.keys():
            for dim, indices in kept[name].items():
                if not _is_direction(name, dim, kept):
                    _zero_others(held[name], dim, torch.from_numpy(indices))
        for name, norm in norms.items():
            norm.keep(scales[name])
    if graph.averages and kept:
        hooks = _AverageOverKept(graph, kept_indices)
        result.register_forward_pre_hook(hooks.enter)
        result.register_forward_hook(hooks.leave, always_call=True)
    return result


def _is_direction(name: str, dim: int, cuts: Mapping[str, Mapping[int, Indices]]) -> bool:
    """The direction of a normalized weight whose lengths lose the same units.

    Only its length is zeroed, to avoid 0/0.
    """
    for direction, length in (("weight_v", "weight_g"), ("weight.original1", "weight.original0")):
        if name.endswith(direction):
            return dim in cuts.get(name.removesuffix(direction) + length, {})
    return False


def _zero_others(tensor: Tensor, dim: int, indices: Tensor) -> None:
    pruned = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
    pruned[indices.to(tensor.device)] = False
    tensor.data.movedim(dim, 0)[pruned] = 0


class _AverageOverKept:
    """Forward hooks that make the model average over the kept units only."""

    def __init__(self, graph: PruningGraph, kept_indices: Mapping[str, Sequence[int]]) -> None:
        self._graph, self._kept_indices = (
            graph,
            {name: list(units) for name, units in kept_indices.items()},
        )
        self._running: list[ExitStack] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before the model runs."""
        stack = ExitStack()
        self._running.append(stack)
        stack.enter_context(following(_KeptOnly(module, self._graph, self._kept_indices)))

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        """After the model ran, whether it failed or not."""
        self._running.pop().close()


class _KeptOnly(Flow):  # type: ignore[no-untyped-call]
    """A forward pass that tracks the units of the groups, some of which are pruned."""

    def __init__(
        self, model: nn.Module, graph: PruningGraph, kept_indices: Mapping[str, Sequence[int]]
    ) -> None:
        super().__init__(model, RULES)
        self.recording = False
        kept = graph.checked(kept_indices)
        units = self.ids.fresh(sum(group.size for group in graph.groups))
        self._pruned = np.ones(len(units), dtype=bool)
        sizes, start = graph.sizes(), 0
        for group in graph.groups:
            mine = units[start : start + group.size]
            start += group.size
            self._pruned[mine[kept[group.name]]] = False
            for part in group.slices:
                key = (part.tensor, part.dim)
                if key not in self.owned:
                    self.owned[key] = self.ids.fresh(graph.dims(part.tensor)[part.dim].size(sizes))
                self.owned[key][part.indices] = mine[:, None]

    def rank(self, label: Indices) -> int:
        """Where dimensions are merged, units of the groups keep their ids: they are prunable.

        The numbers that the model holds have no source here, which blocks some of them.
        """
        roots = self.ids.find(label[label >= 0])
        known = bool((roots < len(self._pruned)).any())
        return (1 << 41) + len(label) if known else super().rank(label)

    def compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
        """Averages over channels, and normalizations, include kept units only."""
        if call.name in _REDUCTIONS and call["other"] is None:  # not max(a, b)
            source = args[0]
            for dim in reduced(call, source.dim()):
                source = self._only_kept(source, self.labels(args[0])[dim], dim)
            return func(source, *args[1:], **kwargs)
        if call.name in _NORMS:
            return _NORMS[call.name](self, call, func)
        if call.name in DIVISORS and isinstance(call[DIVISORS[call.name]], Tensor):
            return func(**{**call.args, DIVISORS[call.name]: self._nowhere_zero(call)})
        if call.name in _CONTRACTED:  # weights may depend on each other, zeros must not return
            place, dim = _CONTRACTED[call.name]
            source = self._zeroed(args[place], dim)
            return func(*args[:place], source, *args[place + 1 :], **kwargs)
        return func(*args, **kwargs)

    def kept(self, label: Indices | None) -> Tensor | None:
        """The positions of a dimension that are kept; None where all are."""
        if label is None:
            return None
        roots = self.ids.find(label)
        known = (roots >= 0) & (roots < len(self._pruned))
        pruned = known & self._pruned[np.where(known, roots, 0)]
        return torch.from_numpy(np.flatnonzero(~pruned)) if pruned.any() else None

    def _zeroed(self, tensor: Tensor, dim: int) -> Tensor:
        kept = self.kept(self.labels(tensor)[dim])
        if kept is None:
            return tensor
        kept = kept.to(tensor.device)
        return torch.zeros_like(tensor).index_copy(dim, kept, tensor.index_select(dim, kept))

    def _nowhere_zero(self, call: Call) -> Tensor:
        """The divisor of a call with 1 where units are pruned: 0 / 0 is not a number."""
        tensor: Tensor = call[DIVISORS[call.name]]
        for dim, label in enumerate(self.labels(tensor)):
            kept = self.kept(label)
            if kept is not None:
                ones, kept = torch.ones_like(tensor), kept.to(tensor.device)
                tensor = ones.index_copy(dim, kept, tensor.index_select(dim, kept))
        return tensor

    def _only_kept(self, tensor: Tensor, label: Indices | None, dim: int) -> Tensor:
        kept = self.kept(label)
        return tensor if kept is None else tensor.index_select(dim, kept.to(tensor.device))


def _batch_norm(flow: _KeptOnly, call: Call, func: Any) -> Any:
    x = call["input"]
    labels = flow.labels(x)
    places = {
        dim: kept.to(x.device)
        for dim in (0, *range(2, x.dim()))
        if (kept := flow.kept(labels[dim])) is not None
    }
    small = x
    for dim, kept in places.items():
        small = small.index_select(dim, kept)
    out, *rest = func(**{**call.args, "input": small})
    return (_spread(out, x.shape, places), *rest)


def _layer_norm(flow: _KeptOnly, call: Call, func: Any) -> Any:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    first = x.dim() - len(call["normalized_shape"])
    labels = flow.labels(x)
    places = {
        dim: kept.to(x.device)
        for dim in range(first, x.dim())
        if (kept := flow.kept(labels[dim])) is not None
    }
    small = x
    for dim, kept in places.items():
        small = small.index_select(dim, kept)
        weight = weight.index_select(dim - first, kept) if weight is not None else None
        bias = bias.index_select(dim - first, kept) if bias is not None else None
    given = {**call.args, "input": small, "normalized_shape": small.shape[first:], "weight": weight}
    if "bias" in given:
        given["bias"] = bias
    out, *rest = func(**given)
    return (_spread(out, x.shape, places), *rest)


def _softmax(flow: _KeptOnly, call: Call, func: Any) -> Any:
    x, dim = call["self"], call["dim"]
    kept = flow.kept(flow.labels(x)[dim]) if x.dim() else None
    if kept is None:
        return func(**call.args)
    places = {dim: kept.to(x.device)}
    return _spread(func(**{**call.args, "self": x.index_select(dim, places[dim])}), x.shape, places)


def _group_norm(flow: _KeptOnly, call: Call, func: Any) -> Any:
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["group"]
    kept = flow.kept(flow.labels(x)[1])
    if kept is None:
        return func(**call.args)
    kept = kept.to(x.device)
    each = {
        "input": x.index_select(1, kept),
        "weight": weight.index_select(0, kept) if weight is not None else None,
        "bias": bias.index_select(0, kept) if bias is not None else None,
        "C": len(kept),
        "group": len(kept) if groups == x.shape[1] else groups,
    }
    out, *rest = func(**{**call.args, **each})
    return (_spread(out, x.shape, {1: kept}), *rest)


_NORMS = {
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
}

_REDUCTIONS = REDUCTIONS | SUMS

_CONTRACTED = {
    "convolution": (0, 1),
    "mm": (0, 1),
    "bmm": (0, 2),
    "addmm": (1, 1),
    "baddbmm": (1, 2),
    "mv": (0, 1),
    "dot": (0, 0),
}
"""Operator → the argument, and its dimension, that is contracted."""


def _spread(small: Tensor, shape: Sequence[int], places: Mapping[int, Tensor]) -> Tensor:
    for place, kept in places.items():
        wide = list(small.shape)
        wide[place] = shape[place]
        small = small.new_zeros(wide).index_copy(place, kept, small)
    return small
