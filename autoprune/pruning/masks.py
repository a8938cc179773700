"""The smaller model's outputs in the dense model's shapes: what would leave is zeroed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.graph import PruningGraph
from autoprune.pruning.surgery import kept_indices

_NORMS = {"layer_norm": 2, "rms_norm": 2, "group_norm": 2}
"""Functions that normalise over channels, and where their weight stands among the arguments."""

_NORM_OPERATORS = {"native_layer_norm", "native_group_norm", "_fused_rms_norm", "rsqrt"}
"""What they are made of (`rsqrt`: RMSNorm in parts)."""


def masked(model: nn.Module, graph: PruningGraph, keep: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the same shapes whose outputs equal those of the model cut down to `keep`.

    Everything that would leave is zero: where it is produced, in the norms behind it, and where it
    is consumed (an activation may turn a zero into something else). Normalisations over channels
    (LayerNorm, GroupNorm, RMSNorm) take their statistics over what is kept.
    """
    result = copy.deepcopy(model)
    held = dict(result.named_parameters(remove_duplicate=False))
    held.update(result.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
    kept = kept_indices(graph, keep)
    with torch.no_grad():
        for name, dims in kept.items():
            for dim, indices in dims.items():
                if not _is_direction(name, dim):
                    _zero_others(held[name], dim, torch.from_numpy(indices))
    norms = _norms(graph, kept)
    if norms:
        follow = _NormOverKept(norms)
        result.register_forward_pre_hook(follow.enter)
        result.register_forward_hook(follow.leave, always_call=True)
    return result


def _is_direction(name: str, dim: int) -> bool:
    """The direction of a normalised weight: its length is zeroed, it must not become 0/0."""
    return dim == 0 and (name.endswith("weight_v") or name.endswith("weight.original1"))


def _zero_others(tensor: Tensor, dim: int, indices: Tensor) -> None:
    leaves = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
    leaves[indices.to(tensor.device)] = False
    tensor.data.movedim(dim, 0)[leaves] = 0


def _norms(
    graph: PruningGraph, kept: Mapping[str, Mapping[int, Any]]
) -> dict[str, dict[int, list[int]]]:
    """Cut parameters that a normalisation over channels may have: {name: {dim: kept}}."""
    if not any(op.name in _NORM_OPERATORS for op in graph.ops):
        return {}
    vectors = {name: dims for name, dims in kept.items() if name in graph.parameters}
    return {
        name: {dim: indices.tolist() for dim, indices in dims.items()}
        for name, dims in vectors.items()
    }


class _NormOverKept:
    """Hooks that let the norms of a masked model see only what is kept."""

    def __init__(self, kept: dict[str, dict[int, list[int]]]) -> None:
        self._kept = kept
        self._modes: list[TorchFunctionMode] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before the model runs."""
        held = dict(module.named_parameters(remove_duplicate=False))
        mode = _Mode({id(held[name]): dims for name, dims in self._kept.items()})
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._modes.append(mode)

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        """After the model ran, whether it failed or not."""
        self._modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


class _Mode(TorchFunctionMode):
    def __init__(self, kept: Mapping[int, Mapping[int, list[int]]]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Norms of known weights run on the kept positions; everything else as it is."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _NORMS:
            place = _NORMS[name]
            weight = kwargs.get("weight", args[place] if len(args) > place else None)
            dims = self._kept.get(id(weight))
            if dims is not None:
                given = (*args, *[None] * (5 - len(args)))
                bias = kwargs.get("bias", given[3] if name != "rms_norm" else None)
                eps = kwargs.get("eps", given[4] if name != "rms_norm" else given[3])
                norm = _group_norm if name == "group_norm" else _layer_norm
                over = (
                    given[1]
                    if given[1] is not None
                    else next(
                        kwargs[key] for key in ("normalized_shape", "num_groups") if key in kwargs
                    )
                )
                return norm(
                    func, args[0] if args else kwargs["input"], over, weight, bias, eps, dims
                )
        return func(*args, **kwargs)


def _layer_norm(
    func: Callable[..., Tensor],
    x: Tensor,
    over: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    eps: float | None,
    dims: Mapping[int, list[int]],
) -> Tensor:
    first = x.dim() - len(over)
    places = {first + dim: torch.tensor(kept, device=x.device) for dim, kept in dims.items()}
    small, scale, shift = x, weight, bias
    for place, kept in places.items():
        small = small.index_select(place, kept)
        scale = scale.index_select(place - first, kept)
        shift = shift.index_select(place - first, kept) if shift is not None else None
    given = {"bias": shift} if shift is not None else {}
    rest = {"eps": eps} if eps is not None else {}
    small = func(small, tuple(small.shape[first:]), weight=scale, **given, **rest)
    return _spread(small, x.shape, places)


def _group_norm(
    func: Callable[..., Tensor],
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor | None,
    eps: float | None,
    dims: Mapping[int, list[int]],
) -> Tensor:
    kept = torch.tensor(dims[0], device=x.device)
    count = len(dims[0]) if groups == x.shape[1] else groups
    rest = {"eps": eps} if eps is not None else {}
    shift = bias.index_select(0, kept) if bias is not None else None
    small = func(x.index_select(1, kept), count, weight.index_select(0, kept), shift, **rest)
    return _spread(small, x.shape, {1: kept})


def _spread(small: Tensor, shape: Sequence[int], places: Mapping[int, Tensor]) -> Tensor:
    for place, kept in places.items():
        wide = list(small.shape)
        wide[place] = shape[place]
        small = small.new_zeros(wide).index_copy(place, kept, small)
    return small
