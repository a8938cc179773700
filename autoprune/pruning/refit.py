"""Refitting on the inputs in the smaller model, layer after layer, in one pass.

`compensate.repair` repairs every layer as if its inputs were the dense model's. Errors of earlier
layers are ignored by later ones, and accumulate. Here the smaller model runs once over a few
calibration samples; before each product y = W x its weight (and bias) is fitted so that its outputs
on the *present* inputs come near the *dense* model's outputs (asymmetric reconstruction, as in He
et al. 2017 and Frantar & Alistarh 2022):

    argmin |Y - W x|² + λ |W - W_0|²,    W_0 = the weight so far.

Where the result (behind its batch normalization) is added to a residual stream, the target is the
sum: so a block also corrects the errors of earlier blocks. The running statistics of batch
normalizations become those of the pass, and their scale and bias are changed so that the function
remains the fitted one. Samples of several shapes run in turn; each fit is over all so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoprune.errors import UsageError
from autoprune.pruning.calibration import Forward, evaluating, run
from autoprune.pruning.computed_weights import plain_weights
from autoprune.pruning.dense_outputs import (
    DenseOutputs,
    ReferenceBatch,
    ResultTracker,
    is_sum,
    record,
)
from autoprune.pruning.linear_ops import LinearOp, LinearOpMode, as_matrix, in_shape
from autoprune.pruning.row_solve import solve_rows

if TYPE_CHECKING:
    from autoprune.graph import PruningGraph

__all__ = ["DenseOutputs", "record", "refit"]

RIDGE = 1e-2  # λ over the mean of the inputs' variances
_DEAD = 1e-3  # outputs whose slope is below this share of the largest are not fitted to the sum


def refit(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    kept_indices: Mapping[str, Sequence[int]],
    reference: DenseOutputs,
    *,
    ridge: float = RIDGE,
    forward: Forward | None = None,
) -> None:
    """Fit, in place, every product of `small` behind the first cut to the dense model's outputs.

    Call it after `surgery.prune(small, graph, kept_indices)` and, best, `compensate.repair`; it
    replaces `reestimate_batchnorm`. `graph` is the dense model's and `kept_indices` holds dense
    indices. Where blocks were dropped, all layers are fitted, so that what reads the residual
    stream makes up for them. Weights that are called several times, in another way as well, through
    a permuted or reshaped view, or have more than 2,304 inputs, keep their values.
    """
    if not ridge > 0.0:
        raise UsageError(f"ridge must be above 0, got {ridge}")
    shapes = {name: p.shape for name, p in dense.named_parameters()}
    targets = reference.targets
    kept = {name: torch.arange(target.outputs.shape[1]) for name, target in targets.items()}
    for (name, dim), removed in graph.removed(kept_indices).items():
        if name in kept and dim == 1 - targets[name].input_dim:
            mask = torch.ones(len(kept[name]), dtype=torch.bool)
            mask[torch.from_numpy(removed)] = False
            kept[name] = mask.nonzero()[:, 0]
    with evaluating(small), plain_weights(small) as hidden, torch.no_grad():
        fitter = _Fitter(small, kept, shapes, ridge, hidden)
        for part in reference.parts:
            fitter.start(part)
            with fitter:
                run(small, part.batch, forward)


class _Fitter(LinearOpMode):  # type: ignore[no-untyped-call]
    """Fits each weight just before (or, with a residual stream, just after) it is used."""

    def __init__(
        self,
        model: nn.Module,
        kept: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        ridge: float,
        hidden: Mapping[str, Tensor],
    ) -> None:
        super().__init__(model)
        self.kept, self.shapes, self.ridge, self.hidden = kept, shapes, ridge, hidden
        self.named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.lost_blocks = any(name not in self.named for name in kept)
        self.sums: dict[str, _Sums] = {}
        self.norm_sums: dict[str | None, tuple[int, Tensor, Tensor]] = {}
        self.refreshed: list[tuple[Tensor, Tensor]] = []  # parts of a normalization, what they were

    def start(self, part: ReferenceBatch) -> None:
        """Continue with another batch; each fit includes the sums so far."""
        self.size, self.targets = part.samples, part.targets
        self.behind_cut = self.lost_blocks
        self.results = ResultTracker()
        self.waiting: dict[str, tuple[LinearOp, Any, Any]] = {}  # product, its call
        self.norms: dict[str, tuple[Any, Any, Any]] = {}  # the call of the normalization
        self.statistics: dict[str | None, tuple[Tensor, Tensor]] = {}  # in front of a normalization
        for tensor, before in reversed(self.refreshed):
            tensor.copy_(before)  # the same function
        self.refreshed.clear()

    def on_linear_op(self, func: Any, args: Any, product: LinearOp | None, x: Tensor) -> Any:
        """Fit the weight first, unless a sum behind it is the better target."""
        if product is None:
            return func(*args)
        name = product.name
        target = self.targets.get(name)
        cut = self.named[name].shape != self.shapes[name]
        if target is None or not (self.behind_cut or self._lost_inputs(product)):
            self.behind_cut |= cut
            return func(*args)
        self.behind_cut = True
        if product.items * product.positions != target.count:
            return func(*args)
        if target.total is None:
            self._fit(product, target.outputs[:, self.kept[name]])
            return func(*args)
        # only the normalization and the sum use this result, and it is computed at the sum
        out = _like_result(product, args)
        self.waiting[name] = (product, func, args)
        self.results.names[out] = name
        return out

    def _lost_inputs(self, product: LinearOp) -> bool:
        dim, name = product.input_dim, product.name
        return self.named[name].shape[dim] != self.shapes[name][dim]

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """Update the statistics, unless the layer in front of it waits."""
        waits = self.results.of(args[0])
        if waits:
            self.norms[waits[0]] = (func, args, kwargs)
            out = torch.empty_like(args[0])
            self.results.names[out] = waits[0]
            rest = len(func._schema.returns) - 1
            return (out, *[out.new_empty(0)] * rest) if rest else out
        if path is not None and self.behind_cut:
            self._refresh(path, args[0], args)
        return func(*args, **kwargs)

    def on_view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Follow a waiting product through a view of its rows."""
        out = func(*args, **kwargs)
        self.results.follow(args[0], out)
        return out

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """At a sum with a residual stream: fit the product that waits for it, and redo it."""
        names = self.results.of(args) if is_sum(func, args, kwargs) else []
        names = [name for name in names if name in self.waiting]
        if not names:
            return func(*args, **kwargs)
        name = list(self.waiting)[max(list(self.waiting).index(n) for n in names)]
        at = next(i for i, a in enumerate(args) if self.results.of(a) == [name])
        redone = self._fit_to_sum(name, args[1 - at]).reshape(args[at].shape)
        total = redone + args[1 - at]
        if func._schema.name == "aten::add":
            return total
        self.results.names.pop(args[0], None)
        return args[0].copy_(total)

    def _fit_to_sum(self, name: str, stream: Tensor) -> Tensor:
        """Fit the product so that it and `stream` together are the dense model's sum."""
        product, func, args = self.waiting.pop(name)
        norm = self.norms.pop(name, None)
        target = self.targets[name]
        kept = self.kept[name]
        assert target.total is not None
        wanted = target.total[:, kept] - product.outputs(stream, target.places)
        if norm is not None:
            _, (_, weight, bias, mean, variance, *_rest), _ = norm
            slope = (variance + norm[1][7]).rsqrt() * (1.0 if weight is None else weight)
            alive = slope.abs() > _DEAD * slope.abs().max()
            level = (0.0 if bias is None else bias) / torch.where(alive, slope, 1.0)
            level = (mean if target.mean is None else target.mean[kept]) - level
            sums = wanted / torch.where(alive, slope, 1.0) + level
            wanted = torch.where(alive, sums, target.outputs[:, kept])
        self._fit(product, wanted)
        out: Tensor = func(*args)
        if norm is None:
            return out
        call, norm_args, kwargs = norm
        self._refresh(target.norm, out, norm_args)
        done = call(out, *norm_args[1:], **kwargs)
        result: Tensor = done[0] if isinstance(done, tuple) else done
        return result

    def _refresh(self, norm: str | None, x: Tensor, call: Any) -> None:
        if norm in self.statistics:
            known = self.statistics.pop(norm)
        else:
            self.norm_sums[norm] = _statistics(x, self.norm_sums.get(norm))
            known = self.norm_sums[norm][1:]
        self.refreshed += [(tensor, tensor.clone()) for tensor in call[1:5] if tensor is not None]
        _refresh(known, call)

    def _fit(self, product: LinearOp, wanted: Tensor) -> None:
        """Least squares of `wanted` (places, outputs) on the present inputs, near the weight."""
        target = self.targets[product.name]
        parameter = self.named[product.name]
        weight = as_matrix(parameter, product.input_dim)
        weight = weight.reshape(product.blocks, -1, product.inputs).float()
        rows = product.rows(target.places)  # (blocks, n, d)
        wanted = wanted.reshape(wanted.shape[0], product.blocks, -1).transpose(0, 1)
        sums = self.sums.setdefault(product.name, _Sums(weight.clone()))
        sums.add(rows, wanted, centered=target.bias is not None or target.norm is not None)
        second, cross = sums.second / sums.rows, sums.cross / sums.rows
        scale = second.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
        change = self._change(product, cross, second, self.ridge * scale)
        if change is None:
            return
        fresh = sums.weight + change.float()
        mean = (sums.middle @ fresh.mT).flatten()
        shift = sums.level.flatten() - mean
        spread = ((fresh @ second.float()) * fresh).sum(2).flatten()
        fresh = fresh.flatten(0, 1)
        parameter.copy_(in_shape(fresh, parameter.shape, product.input_dim))
        if target.bias is not None:
            self.named[target.bias].copy_(shift)
        elif target.mean is not None:
            running = self.named[f"{target.norm}.running_mean"]
            running.copy_(target.mean[self.kept[product.name]] - shift)
            self.statistics[target.norm] = (mean, spread)

    def _change(
        self, product: LinearOp, cross: Tensor, second: Tensor, damping: Tensor
    ) -> Tensor | None:
        """The change (blocks, outputs, d) of the weight, or None where it cannot be solved for."""
        if not bool(torch.isfinite(cross).all()):
            return None
        if product.name in self.hidden:
            hidden = as_matrix(self.hidden[product.name].to(cross.device), product.input_dim)
            kept = ~hidden.reshape(cross.mT.shape)
            rows = zip(cross.mT, kept, second, damping.tolist(), strict=True)
            return torch.stack([solve_rows(*each) for each in rows])
        eye = torch.eye(product.inputs, dtype=second.dtype, device=second.device)
        factor, failed = torch.linalg.cholesky_ex(second + damping[:, None, None] * eye)
        return None if bool(failed.any()) else torch.cholesky_solve(cross, factor).mT


class _Sums:
    """What a fit needs of all rows so far: their means, and products around them.

    `weight` (blocks, outputs, d) is the one so far; `middle` (blocks, 1, d) and `level` (blocks, 1,
    outputs) are the means of inputs and wanted outputs, `second` and `cross` the sums of the
    inputs' products with themselves and with the residual of `weight`.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.rows = weight, 0
        self.middle, self.level = weight.new_zeros(()), weight.new_zeros(())
        self.second = self.cross = weight.new_zeros((), dtype=torch.float64)

    def add(self, rows: Tensor, wanted: Tensor, *, centered: bool) -> None:
        """Add rows (blocks, n, d) and their wanted outputs, around the means or around 0."""
        count = rows.shape[1]
        share = count / (self.rows + count)
        middle = rows.mean(1, keepdim=True) if centered else torch.zeros_like(rows[:, :1])
        level = wanted.mean(1, keepdim=True) if centered else torch.zeros_like(wanted[:, :1])
        rows = rows - middle
        rest = wanted - level - rows @ self.weight.mT
        self.second = self.second + (rows.mT @ rows).double()
        self.cross = self.cross + (rows.mT @ rest).double()
        if self.rows:
            apart, lift = middle - self.middle, level - self.level
            left = lift - apart @ self.weight.mT
            self.second += (self.rows * share) * (apart.mT @ apart).double()
            self.cross += (self.rows * share) * (apart.mT @ left).double()
            middle, level = self.middle + share * apart, self.level + share * lift
        self.middle, self.level = middle, level
        self.rows += count


def _like_result(product: LinearOp, args: Any) -> Tensor:
    """An empty tensor for the product's result, in the memory format that it would have."""
    x: Tensor = args[-2] if product.window is None else args[0]
    if product.window is None:
        weight: Tensor = args[-1]
        return x.new_empty((*x.shape[:-1], weight.shape[-1]))
    shape = (x.shape[0], args[1].shape[1 - product.input_dim], *product.spots())
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _statistics(
    x: Tensor, before: tuple[int, Tensor, Tensor] | None = None
) -> tuple[int, Tensor, Tensor]:
    """Count, mean and variance of each channel, together with those of `before`."""
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x.float(), dims, correction=0)
    count = x.numel() // x.shape[1]
    if before is None:
        return count, mean, variance
    share = count / (before[0] + count)
    apart = mean - before[1]
    variance = before[2].lerp(variance, share) + share * (1.0 - share) * apart.square()
    return before[0] + count, before[1] + share * apart, variance


def _refresh(statistics: tuple[Tensor, Tensor], call: Any) -> None:
    """Set running statistics; scale and bias are changed so that the function is unchanged.

    `call` are the arguments of the batch normalization.
    """
    now, fresh = statistics
    weight, bias, mean, variance, _, _, epsilon = call[1:8]
    if weight is not None and bias is not None:
        bias += weight * (now - mean) * (variance + epsilon).rsqrt()
        weight *= ((fresh + epsilon) / (variance + epsilon)).sqrt()
    mean.copy_(now)
    variance.copy_(fresh)
