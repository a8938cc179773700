"""Importance scores of the units of a group, and the selection of the units to keep.

A method is one function that turns the slices of a group into one number per unit; `METHODS` is the
visible table, to which a method can be added. The numbers are compared inside a group only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoprune.candidate import BY_GRADIENTS
from autoprune.errors import TrainingError, UsageError
from autoprune.graph import Group, PruningGraph, Slice
from autoprune.graph.replica import plain
from autoprune.graph.trace import untouched
from autoprune.pruning.effective import effective

if TYPE_CHECKING:
    from autoprune.pruning.calibration import Calibration, Moment

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, eq=False)
class Weights:
    """The inputs of a method: parameters by `state_dict` name, gradients, scales of norms.

    `parameters` are the effective ones (see `effective`), `raw` those that are trained; `moments`
    are those of the weights' inputs where there is a calibration.
    """

    parameters: Mapping[str, Tensor]
    raw: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    scales: frozenset[str]
    moments: Mapping[str, Moment] = field(default_factory=dict)


Method = Callable[[Group, Weights], Tensor]


def scores(
    model: nn.Module,
    graph: PruningGraph,
    method: str | Method,
    *,
    calibration: Calibration | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    groups: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The importance of every unit of every group: group name -> `(size,)` float64 on the CPU.

    With `groups` only those are scored. Larger is more important; only the order inside a group has
    a meaning. `method` is a function from a group and the `Weights` to `(size,)`, or one of these
    names: `"l1"` and `"l2"` are norms of the weights that produce the unit (Li et al. 2017,
    arXiv:1608.08710), `"group"` the l2 norm over all slices that are pruned with it, each tensor
    divided by its mean (Fang et al. 2023, arXiv:2301.12900), `"bn_scale"` the size of the
    normalization's scale (Liu et al. 2017, arXiv:1708.06519; `"l2"` for a group without one),
    `"fpgm"` the sum of the distances to the other units' weights (He et al. 2019,
    arXiv:1811.00250), `"wanda"` the sum of |weight x root mean square of its input| where the unit
    is consumed (Sun et al. 2024, arXiv:2306.11695; needs `calibration`), `"taylor"` the sum of
    |weight x gradient| over all slices (Molchanov et al. 2019, arXiv:1906.10771), `"movement"` that
    of -weight x gradient (Sanh et al. 2020, arXiv:2005.07683; both need `gradients` from
    `accumulate_gradients`), `"obs"` the nested Optimal-Brain-Surgeon order (needs `calibration`).

    Raises UsageError for an unknown method or a missing argument, TrainingError where a score is
    not finite.
    """
    if isinstance(method, str):
        _check_method(method, calibration, gradients)
    if method == "obs":
        result = _obs(model, graph, calibration, groups)
    else:
        score = METHODS[method] if isinstance(method, str) else method
        weights = _weights(model, gradients or {}, calibration)
        result = {
            group.name: _scored(score, group, weights)
            for group in graph.groups
            if groups is None or group.name in groups
        }
    for name, values in result.items():
        if not bool(torch.isfinite(values).all()):
            raise TrainingError(
                f"importance {method!r} of group {name!r} must be finite, got NaN or infinity "
                "· the weights, statistics or gradients of this group are not finite"
            )
    return result


def _check_method(
    method: str, calibration: Calibration | None, gradients: Mapping[str, Tensor] | None
) -> None:
    known = (*METHODS, "obs")
    if method not in known:
        raise UsageError(f"importance must be one of {', '.join(known)}, got {method!r}")
    if method in BY_GRADIENTS and gradients is None:
        raise UsageError(
            f"importance {method!r} needs gradients · get them with "
            "autoprune.accumulate_gradients(model, loss, batches)"
        )
    if method == "wanda" and calibration is None:
        raise UsageError(
            "importance 'wanda' needs a calibration · get one with "
            "autoprune.calibrate(model, batches)"
        )


def _scored(method: Method, group: Group, weights: Weights) -> Tensor:
    found = torch.as_tensor(method(group, weights)).detach().double().cpu()
    if found.shape != (group.size,):
        raise UsageError(
            f"an importance must give one number for each of the {group.size} units of group "
            f"{group.name!r}, got the shape {tuple(found.shape)}"
        )
    return found


def best_units(
    scores: Mapping[str, Tensor], widths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The `widths[name]` best units of each named group, ascending; the first ones among equals."""
    kept = {}
    for name, width in widths.items():
        order = torch.sort(scores[name], descending=True, stable=True).indices
        kept[name] = tuple(sorted(order[:width].tolist()))
    return kept


def accumulate_gradients(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
) -> dict[str, Tensor]:
    """The mean gradient of `loss(model, batch)` over `batches`, by `state_dict` name.

    The model runs in its present mode; its `.grad` fields, buffers (running statistics) and the
    random state are not changed. Parameters without gradients in training (`requires_grad=False`)
    have theirs, too; those that the loss does not reach get zeros. Raises UsageError for no batch
    at all.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> batches = [(torch.ones(4, 1), torch.zeros(4, 1)), (torch.ones(2, 1), torch.ones(2, 1))]
    >>> loss = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()
    >>> sorted(accumulate_gradients(net, loss, batches))
    ['0.weight', '1.weight']
    """
    model = plain(model)
    scored = {n: p for n, p in model.named_parameters() if _has_gradient(p)}
    total = {name: torch.zeros_like(p) for name, p in scored.items()}
    count = 0
    with untouched(model), _unfrozen(scored.values()), torch.enable_grad():
        for batch in batches:
            value = loss(model, batch)
            found = torch.autograd.grad(value, list(scored.values()), allow_unused=True)
            for name, gradient in zip(scored, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.detach()
            count += 1
    if count == 0:
        raise UsageError("gradients need at least one batch, got none")
    return {name: value / count for name, value in total.items()}


def _has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


@contextmanager
def _unfrozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, all of the parameters have gradients."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def unit_sums(values: Tensor, part: Slice) -> Tensor:
    """Sums of `values` (the shape of the slice's tensor) over what each unit owns: `(units,)`.

    >>> import numpy as np
    >>> part = Slice("weight", 0, np.array([[0], [2]]), "out")
    >>> unit_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), part).tolist()
    [3.0, 11.0]
    """
    lines = values.movedim(part.dim, 0).flatten(1) if values.dim() > 1 else values[:, None]
    index = torch.as_tensor(part.indices, device=values.device)
    return lines.sum(1, dtype=torch.float64)[index].sum(1)


def _weights(
    model: nn.Module, gradients: Mapping[str, Tensor], calibration: Calibration | None
) -> Weights:
    raw = {name: held.detach() for name, held in model.named_parameters(remove_duplicate=False)}
    scales = frozenset(
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS)
    )
    moments = calibration.moments if calibration is not None else {}
    return Weights(effective(model), raw, gradients, scales, moments)


def _learned(group: Group, weights: Weights) -> list[Slice]:
    return [part for part in group.slices if part.tensor in weights.parameters]


def _producing(group: Group, weights: Weights) -> list[Slice]:
    """The weight matrices that produce the unit; all learned slices where there is none."""
    learned = _learned(group, weights)
    made = [p for p in learned if p.role == "out" and weights.parameters[p.tensor].dim() > 1]
    return made or learned


def _l1(group: Group, weights: Weights) -> Tensor:
    return _total(
        group,
        (unit_sums(weights.parameters[p.tensor].abs(), p) for p in _producing(group, weights)),
    )


def _l2(group: Group, weights: Weights) -> Tensor:
    parts = _producing(group, weights)
    squares = (unit_sums(weights.parameters[p.tensor].double().square(), p) for p in parts)
    return _total(group, squares).sqrt()


def _group_norm(group: Group, weights: Weights) -> Tensor:
    return _total(group, (_relative_square(p, weights) for p in _learned(group, weights))).sqrt()


def _relative_square(part: Slice, weights: Weights) -> Tensor:
    squares = unit_sums(weights.parameters[part.tensor].double().square(), part)
    mean = squares.sqrt().mean()
    return squares / mean.square() if mean > 0 else squares


def _bn_scale(group: Group, weights: Weights) -> Tensor:
    parts = [p for p in group.slices if p.tensor in weights.scales and p.role == "affine"]
    if not parts:
        return _l2(group, weights)
    return _total(group, (unit_sums(weights.parameters[p.tensor].abs(), p) for p in parts))


def _taylor(group: Group, weights: Weights) -> Tensor:
    parts = [p for p in group.slices if p.tensor in weights.gradients]
    products = (
        unit_sums((weights.raw[p.tensor] * weights.gradients[p.tensor]).abs(), p) for p in parts
    )
    return _total(group, products)


def _movement(group: Group, weights: Weights) -> Tensor:
    parts = [p for p in group.slices if p.tensor in weights.gradients]
    return _total(
        group,
        (-unit_sums(weights.raw[p.tensor] * weights.gradients[p.tensor], p) for p in parts),
    )


def _fpgm(group: Group, weights: Weights) -> Tensor:
    lines = [_lines(weights.parameters[p.tensor], p) for p in _producing(group, weights)]
    units = torch.cat(lines, dim=1)
    return torch.cdist(units, units).sum(1)


def _lines(values: Tensor, part: Slice) -> Tensor:
    """What each unit owns of a tensor: `(units, n)` float64."""
    index = torch.as_tensor(part.indices, device=values.device)
    return values.double().movedim(part.dim, 0)[index].flatten(1).cpu()


def _wanda(group: Group, weights: Weights) -> Tensor:
    parts = [
        p
        for p in group.slices
        if p.tensor in weights.moments and weights.moments[p.tensor].input_dim == p.dim
    ]
    if not parts:
        return _l2(group, weights)
    return _total(
        group,
        (unit_sums(_activated(weights, p.tensor), p) for p in parts),
    )


def _activated(weights: Weights, name: str) -> Tensor:
    """|w| times the root mean square of its input."""
    values, moment = weights.parameters[name].abs().double().cpu(), weights.moments[name]
    values = values if moment.input_dim == 1 else values.transpose(0, 1)
    squares = moment.covariance.diagonal(dim1=1, dim2=2) + moment.mean.square()
    each = len(values) // len(squares)
    sizes = squares.clamp_min(0.0).sqrt().repeat_interleave(each, 0)
    scaled = values * sizes.view(values.shape)
    return scaled if moment.input_dim == 1 else scaled.transpose(0, 1)


def _total(group: Group, parts: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(group.size, dtype=torch.float64)
    for part in parts:
        total = total + part.to(total.device)
    return total


def _obs(
    model: nn.Module,
    graph: PruningGraph,
    calibration: Calibration | None,
    groups: Collection[str] | None,
) -> dict[str, Tensor]:
    if calibration is None:
        raise UsageError(
            "importance 'obs' needs a calibration · get one with "
            "autoprune.calibrate(model, batches)"
        )
    from autoprune.pruning import compensate

    return compensate.obs_scores(model, graph, calibration, groups=groups)


METHODS: dict[str, Method] = {
    "l1": _l1,
    "l2": _l2,
    "group": _group_norm,
    "bn_scale": _bn_scale,
    "fpgm": _fpgm,
    "wanda": _wanda,
    "taylor": _taylor,
    "movement": _movement,
}
