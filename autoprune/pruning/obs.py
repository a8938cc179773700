"""The order in which the units of a group are pruned: Optimal Brain Surgeon for blocks of inputs.

Removing the input columns B of a consumer y = W x, with all other weights re-fitted by least
squares, adds the error

    tr(W_B (H_BB)⁻¹ W_Bᵀ),    H = (C + λ I)⁻¹,

after which W ← W - W_B (H_BB)⁻¹ H_B: and H ← H - H_:B (H_BB)⁻¹ H_B:. A unit of a group owns some
columns in every consumer of the group (the k² taps of a channel for a convolution). Units are
pruned greedily, the one with the smallest sum of added errors first, so one pass gives a nested
order for every ratio (Hassibi & Stork 1993; blocks as in Kurtic et al. 2022, arXiv:2203.07259;
greedy removal of structures as in ZipLM, arXiv:2302.04089).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import UsageError
from autoprune.graph import Group, PruningGraph
from autoprune.pruning.calibration import Calibration, Moment
from autoprune.pruning.effective import effective
from autoprune.pruning.linear_ops import as_matrix
from autoprune.pruning.threads import threads_of

RIDGE = 1e-3  # λ over the mean of the inputs' variances
LAZY = 256  # columns


def obs_scores(
    model: nn.Module,
    graph: PruningGraph,
    calibration: Calibration,
    *,
    groups: Collection[str] | None = None,
    ridge: float = RIDGE,
    lazy: int = LAZY,
) -> dict[str, Tensor]:
    """The nested Optimal-Brain-Surgeon importance of every unit: group name -> `(size,)` float64.

    The importance is the accumulated error of greedy removal when the unit is removed: each
    consumer's squared output error over its outputs' variance (outputs weighted by the scale of a
    following batch normalization), summed over the consumers. So the scores of a group are strictly
    ascending in the order of removal, and keeping the largest ones is the same order at any ratio.
    Units of a group without any consumer in `calibration` are scored by the l2 norm of the weights
    that produce them. With `groups` only those are scored. `ridge` > 0 is λ over the mean of the
    inputs' variances; the Hessian is updated after each `lazy` removed columns, which changes the
    time that it takes and no score.
    """
    if not ridge > 0.0:
        raise UsageError(f"ridge must be above 0, got {ridge}")
    parameters = {name: p.cpu() for name, p in effective(model).items()}
    buffers = {name: b.detach().cpu() for name, b in model.named_buffers()}
    state = {**parameters, **buffers}
    with torch.no_grad(), threads_of(1):  # many small steps: more threads wait for each other
        return {
            group.name: _group_scores(group, state, calibration, (ridge, lazy))
            for group in graph.groups
            if groups is None or group.name in groups
        }


class _Consumer:
    """One block of one weight: the error of removing each remaining unit.

    Inputs are sorted so that each unit's columns lie together. H is dense and large, so it is
    updated only after `lazy` columns have been removed, by one matrix product, and then the
    removed columns are dropped (lazy batches as in GPTQ, Frantar et al. 2023, arXiv:2210.17323);
    its diagonal blocks and the weight always are.
    """

    def __init__(
        self, weight: Tensor, second: Tensor, columns: Tensor, ridge: float, lazy: int
    ) -> None:
        """`weight` (rows, d) scaled, `second` (d, d), `columns` (units, b)."""
        scale = float(second.diagonal().mean())
        damping = ridge * scale if scale > 0.0 else 1.0
        self.total = float(((weight @ second) * weight).sum())
        units, self._taps = columns.shape
        self._lazy = lazy
        own = columns.flatten()
        others = torch.ones(second.shape[0], dtype=torch.bool)
        others[own] = False
        order = torch.cat([own, others.nonzero().flatten()])
        self._inverse = _inverse(second[order][:, order], damping)
        self._weight = weight.T[order].contiguous()
        self._diagonal = self._blocks(self._inverse, units)
        self._remains = torch.ones(units, dtype=torch.bool)  # of those that H still has
        self._pending: list[tuple[Tensor, Tensor]] = []  # H_B: and (H_BB)⁻¹ H_B: since

    def costs(self) -> Tensor:
        """The added error of each remaining unit, in their order."""
        own = self._weight[: len(self._diagonal) * self._taps]
        own = own.view(len(self._diagonal), self._taps, -1)
        outer = (own @ own.mT)[self._remains]
        inner: Tensor = torch.linalg.solve(self._diagonal[self._remains], outer)
        return inner.diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, place: int) -> None:
        """Remove the columns of the `place`-th remaining unit, and re-fit the rest."""
        unit = int(self._remains.nonzero()[place])
        columns = slice(unit * self._taps, (unit + 1) * self._taps)
        across = self._inverse[columns].clone()
        for before, fitted in self._pending:
            across -= before[:, columns].T @ fitted
        fitted = torch.linalg.solve(across[:, columns], across)
        self._weight.addmm_(fitted.T, self._weight[columns].clone(), alpha=-1.0)
        units = len(self._diagonal)
        parts = [x[:, : units * self._taps].view(-1, units, self._taps) for x in (across, fitted)]
        self._diagonal -= parts[0].permute(1, 2, 0) @ parts[1].transpose(0, 1)
        self._remains[unit] = False
        self._pending.append((across, fitted))
        if len(self._pending) * self._taps >= self._lazy:
            self._update()

    def _update(self) -> None:
        """Update H and drop the removed columns."""
        before, fitted = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        remaining = torch.ones(len(self._inverse), dtype=torch.bool)
        remaining[: len(self._remains) * self._taps] = self._remains.repeat_interleave(self._taps)
        inverse = self._inverse[remaining][:, remaining]
        self._inverse = inverse.addmm_(before[:, remaining].T, fitted[:, remaining], alpha=-1.0)
        self._weight = self._weight[remaining]
        self._remains = self._remains[self._remains]
        self._diagonal = self._blocks(self._inverse, len(self._remains))

    def _blocks(self, inverse: Tensor, units: int) -> Tensor:
        """`(units, b, b)`, copied."""
        own = inverse[: units * self._taps, : units * self._taps]
        blocks = own.view(units, self._taps, units, self._taps).diagonal(dim1=0, dim2=2)
        return blocks.permute(2, 0, 1).clone()


def _inverse(second: Tensor, damping: float) -> Tensor:
    """(C + λ I)⁻¹."""
    damped = second + damping * torch.eye(second.shape[0], dtype=second.dtype)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return torch.linalg.inv(damped) if bool(failed) else torch.cholesky_inverse(factor)


def _group_scores(
    group: Group,
    state: Mapping[str, Tensor],
    calibration: Calibration,
    options: tuple[float, int],
) -> Tensor:
    consumers = _consumers(group, state, calibration, options)
    totals = {key: sum(c.total for c in parts) for key, parts in consumers.items()}
    active = [(c, totals[key]) for key, parts in consumers.items() for c in parts if totals[key]]
    if not active:
        return _producer_norms(group, state)
    importance = torch.zeros(group.size, dtype=torch.float64)
    left = torch.arange(group.size)
    error, previous = 0.0, -math.inf
    for _ in range(group.size):
        costs = torch.stack([c.costs().clamp_min(0.0) / total for c, total in active]).sum(0)
        position = int(costs.argmin())
        unit = int(left[position])
        error = max(error + float(costs[position]), float(np.nextafter(previous, math.inf)))
        importance[unit] = previous = error
        left = torch.cat([left[:position], left[position + 1 :]])
        for consumer, _total in active:
            consumer.remove(position)
    return importance


def _consumers(
    group: Group,
    state: Mapping[str, Tensor],
    calibration: Calibration,
    options: tuple[float, int],
) -> dict[str, list[_Consumer]]:
    """The blocks of each weight with a moment that contracts the group's units."""
    indices: dict[str, list[np.ndarray]] = {}
    for piece in group.slices:
        moment = calibration.moments.get(piece.tensor)
        if moment is not None and moment.input_dim == piece.dim:
            indices.setdefault(piece.tensor, []).append(piece.indices)
    found = {}
    for name, parts in indices.items():
        moment = calibration.moments[name]
        weight = as_matrix(state[name].double(), moment.input_dim)
        weight = weight * _output_scales(moment, state, len(weight))[:, None]
        taps = math.prod(state[name].shape[2:])
        units = torch.from_numpy(np.concatenate(parts, axis=1))
        columns = (units[:, :, None] * taps + torch.arange(taps)).flatten(1)
        blocks = weight.chunk(moment.covariance.shape[0])
        found[name] = [
            _Consumer(block, second(moment, index), columns, *options)
            for index, block in enumerate(blocks)
        ]
    return found


def second(moment: Moment, block: int) -> Tensor:
    """The second moment: centered where a shift of the output can be absorbed."""
    if moment.bias is not None or moment.norm is not None:
        return moment.covariance[block]
    mean = moment.mean[block]
    return moment.covariance[block] + mean[:, None] * mean[None, :]


def _output_scales(moment: Moment, state: Mapping[str, Tensor], rows: int) -> Tensor:
    """The weight of each output: the slope of the normalization behind it."""
    if moment.norm is None:
        return torch.ones(rows, dtype=torch.float64)
    variance = state[f"{moment.norm}.running_var"].double()
    gain = state.get(f"{moment.norm}.weight", torch.ones_like(variance)).double()
    return gain.abs() / (variance + 1e-5).sqrt()


def _producer_norms(group: Group, state: Mapping[str, Tensor]) -> Tensor:
    squares = torch.zeros(group.size, dtype=torch.float64)
    for piece in group.slices:
        if piece.role == "out" and piece.tensor in state and state[piece.tensor].dim() > 1:
            lines = state[piece.tensor].double().movedim(piece.dim, 0).flatten(1).square().sum(1)
            squares += lines[torch.from_numpy(piece.indices)].sum(1)
    return squares.sqrt()
