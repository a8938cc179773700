"""Repair on what the smaller model really sees, layer after layer, in one pass.

`compensate.repair` mends every layer as if its inputs were the dense model's. Errors of earlier
layers are not seen by later ones, and add up. Here the smaller model runs once over a few
calibration samples; before each product y = W x its weight (and bias) is fitted so that its outputs
on the *present* inputs come near the *dense* model's outputs (asymmetric reconstruction, as in He
et al. 2017 and Frantar & Alistarh 2022):

    argmin |Y - W x|² + λ |W - W_0|²,    W_0 = the weight so far.

Where the result (behind its batch normalisation) is added to a residual stream, the target is the
sum: so a block also makes good what its predecessors got wrong. The running statistics of batch
normalisations become those of the pass, and their scale and bias are changed so that the function
stays the fitted one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import UsageError
from autoprune.pruning.calibration import Forward, evaluating, run, take
from autoprune.pruning.products import Followers, Product, ProductMode

if TYPE_CHECKING:
    from autoprune.graph import PruningGraph

RIDGE = 1e-2  # λ over the mean of the inputs' variances
_MIN_ROWS = 8_192
_MAX_INPUTS = 2_304  # a product with more inputs keeps its repaired weight
_DEAD = 1e-3  # outputs whose slope is below this share of the largest are not fitted to the sum


@dataclass(frozen=True, eq=False)
class Target:
    """What one product of the dense model put out at some places: `outputs` (places, outputs).

    `total` are the same places of the sum with the residual stream, where the product (or the batch
    normalisation `norm` behind it) goes into an addition and nowhere else. `mean` is that
    normalisation's running mean. `count` is the number of all places, `input_dim` the contracted
    dimension of the weight.
    """

    places: Tensor
    outputs: Tensor
    total: Tensor | None
    bias: str | None
    norm: str | None
    mean: Tensor | None
    count: int
    input_dim: int


@dataclass(frozen=True, eq=False)
class Reference:
    """A batch of calibration samples, and the dense model's outputs on it by weight."""

    batch: Any
    samples: int
    targets: Mapping[str, Target]


def record(
    dense: nn.Module,
    batches: Iterable[Any],
    *,
    max_samples: int = 512,
    seed: int = 0,
    forward: Forward | None = None,
) -> Reference:
    """Run the dense model once over `max_samples` samples (one batch) and keep its outputs.

    At least 8,192 places of each product are drawn with `seed`. Batches and `forward` as in
    `calibrate`; the model is unchanged. Raises UsageError when there is no batch.
    """
    batch, samples = _join(batches, max_samples)
    try:  # about 1.5 times as fast for images on a CPU, but code with `view` may not take it
        batch, watch = _watched(dense, _channels_last(batch), samples, seed, forward)
    except RuntimeError:
        batch, watch = _watched(dense, batch, samples, seed, forward)
    return Reference(batch, samples, watch.targets(dict(dense.named_buffers())))


def refit(
    small: nn.Module,
    dense: nn.Module,
    graph: PruningGraph,
    keep: Mapping[str, Sequence[int]],
    reference: Reference,
    *,
    ridge: float = RIDGE,
    forward: Forward | None = None,
) -> None:
    """Fit, in place, every product of `small` behind the first cut to the dense model's outputs.

    Call it after `surgery.prune(small, graph, keep)` and, best, `compensate.repair`; it replaces
    `reestimate_batchnorm`. `graph` is the dense model's and `keep` holds dense indices. Weights
    that are called several times, or in another way as well, keep their values.
    """
    if not ridge > 0.0:
        raise UsageError(f"ridge must be above 0, got {ridge}")
    shapes = {name: p.shape for name, p in dense.named_parameters()}
    kept = {}
    for name, target in reference.targets.items():
        kept[name] = torch.arange(target.outputs.shape[1])
    for (name, dim), gone in graph.removed(keep).items():
        if name in kept and dim == 1 - reference.targets[name].input_dim:
            mask = torch.ones(len(kept[name]), dtype=torch.bool)
            mask[torch.from_numpy(gone)] = False
            kept[name] = mask.nonzero()[:, 0]
    fitter = _Fitter(small, reference, kept, shapes, ridge)
    with evaluating(small), torch.no_grad(), fitter:
        run(small, reference.batch, forward)


def _join(batches: Iterable[Any], limit: int) -> tuple[Any, int]:
    """The first `limit` samples as one batch."""
    parts, seen = [], 0
    for batch in batches:
        part, size = take(batch, limit - seen)
        parts.append(tree_flatten(part))
        seen += size
        if seen >= limit:
            break
    if not parts:
        raise UsageError("a reference needs at least one batch, got none · pass a loader with data")
    leaves = [
        torch.cat(column) if isinstance(column[0], Tensor) and column[0].dim() else column[0]
        for column in zip(*(leaves for leaves, _ in parts), strict=True)
    ]
    return tree_unflatten(leaves, parts[0][1]), seen


def _channels_last(batch: Any) -> Any:
    def convert(x: Any) -> Any:
        images = isinstance(x, Tensor) and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if images else x

    return tree_map(convert, batch)


def _watched(
    dense: nn.Module, batch: Any, samples: int, seed: int, forward: Forward | None
) -> tuple[Any, _Watch]:
    watch = _Watch(dense, samples, seed)
    with evaluating(dense), torch.no_grad(), watch:
        run(dense, batch, forward)
    return batch, watch


class _Tails:
    """Tensors that are a product's result, or its batch normalisation's, and used only once."""

    def __init__(self) -> None:
        self.names: Any = WeakTensorKeyDictionary()

    def follow(self, old: Any, new: Any) -> None:
        """`new` is `old` seen or normalised."""
        name = self.names.get(old) if isinstance(old, Tensor) else None
        if name is not None and isinstance(new, Tensor):
            self.names[new] = name

    def of(self, tensors: Any) -> list[str]:
        """The products whose results are among these tensors."""
        found = [self.names.get(t) for t in tree_flatten(tensors)[0] if isinstance(t, Tensor)]
        return [name for name in found if name is not None]


def _is_sum(func: Any, args: Any, kwargs: Any) -> bool:
    return (
        func._schema.name in ("aten::add", "aten::add_")
        and not kwargs
        and len(args) == 2
        and all(isinstance(a, Tensor) for a in args)
        and args[0].shape == args[1].shape
    )


class _Watch(ProductMode):  # type: ignore[no-untyped-call]
    """Keeps what each product of the dense model puts out."""

    def __init__(self, model: nn.Module, samples: int, seed: int) -> None:
        super().__init__(model)
        self.size = samples
        self.generator = torch.Generator().manual_seed(seed)
        self.followers = Followers()
        self.tails = _Tails()
        self.order: list[str] = []
        self.calls: dict[str, tuple[Product, Tensor, Tensor]] = {}  # product, places, outputs
        self.uses: dict[str, int] = {}
        self.totals: dict[str, Tensor] = {}

    def on_product(self, func: Any, args: Any, product: Product | None, x: Tensor) -> Any:
        """Keep the outputs at some places."""
        out = func(*args)
        self.followers.fed(x)
        self._used(x)
        if product is None:
            return out
        if product.name in self.order:
            self.skipped[product.name] = "called several times"
            return out
        self.order.append(product.name)
        places = product.draw(max(_MIN_ROWS, 4 * product.inputs), self.generator)
        # without its input, which would keep every activation alive
        slim = Product(**{**vars(product), "x": product.x.new_empty(0)})
        self.calls[product.name] = (slim, places, product.outputs(out, places))
        self.followers.made(out, product.name)
        self.tails.names[out] = product.name
        return out

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """Follow a product through its normalisation."""
        self.followers.fed(args[0], path)
        out = func(*args, **kwargs)
        if path is None:
            self._used(args[0])
        else:
            self.tails.follow(args[0], out[0] if isinstance(out, tuple) else out)
        return out

    def on_view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Follow a matrix product's result through a view of its rows."""
        out = func(*args, **kwargs)
        self.followers.fed(args[0])
        names = self.tails.of(args[0])
        rows = isinstance(out, Tensor) and out.dim() and out.shape[-1] == args[0].shape[-1]
        if names and rows and self.calls[names[0]][0].window is None:
            self.tails.follow(args[0], out)
        else:
            self._used(args[0])
        return out

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Keep the sum with a residual stream."""
        names = self.tails.of(args) if _is_sum(func, args, kwargs) else []
        last = max(names, key=self.order.index) if names else None
        self.followers.fed((args, kwargs))
        for name in self.tails.of((args, kwargs)):
            self._count(name)
        out = func(*args, **kwargs)
        if last is not None:
            product, places, _ = self.calls[last]
            self.totals[last] = product.outputs(out, places)
        if out is args[0]:  # changed in place: no longer the product's result
            self.tails.names.pop(out, None)
        return out

    def _used(self, tensor: Tensor) -> None:
        for name in self.tails.of(tensor):
            self._count(name)

    def _count(self, name: str) -> None:
        self.uses[name] = self.uses.get(name, 0) + 1

    def targets(self, means: Mapping[str, Tensor]) -> dict[str, Target]:
        """What was kept, for the weights that have no other use; `means` are running means."""
        found = {}
        for name, (product, places, outputs) in self.calls.items():
            if name in self.skipped or product.inputs > _MAX_INPUTS:
                continue
            total = self.totals.get(name) if self.uses.get(name) == 1 else None
            bias = product.bias if product.bias not in self.skipped else None
            norm = self.followers.norm(name)
            mean = means[f"{norm}.running_mean"].clone() if norm is not None else None
            count = product.items * product.positions
            found[name] = Target(places, outputs, total, bias, norm, mean, count, product.input_dim)
        return found


class _Fitter(ProductMode):  # type: ignore[no-untyped-call]
    """Fits each weight just before (or, with a residual stream, just after) it is used."""

    def __init__(
        self,
        model: nn.Module,
        reference: Reference,
        kept: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        ridge: float,
    ) -> None:
        super().__init__(model)
        self.size = reference.samples
        self.reference, self.kept, self.shapes, self.ridge = reference, kept, shapes, ridge
        self.named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.behind_cut = False
        self.tails = _Tails()
        self.waiting: dict[str, tuple[Product, Any, Any]] = {}  # product, its call
        self.norms: dict[str, tuple[Any, Any, Any]] = {}  # the call of the normalisation
        self.statistics: dict[str | None, tuple[Tensor, Tensor]] = {}  # in front of a normalisation

    def on_product(self, func: Any, args: Any, product: Product | None, x: Tensor) -> Any:
        """Fit the weight first, unless a sum behind it is the better target."""
        if product is None:
            return func(*args)
        name = product.name
        target = self.reference.targets.get(name)
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
        # nothing but the normalisation and the sum will see this result, and the sum computes it
        out = _like_result(product, args)
        self.waiting[name] = (product, func, args)
        self.tails.names[out] = name
        return out

    def _lost_inputs(self, product: Product) -> bool:
        dim, name = product.input_dim, product.name
        return self.named[name].shape[dim] != self.shapes[name][dim]

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """Bring the statistics up to date, unless the product in front of it waits."""
        waits = self.tails.of(args[0])
        if waits:
            self.norms[waits[0]] = (func, args, kwargs)
            out = torch.empty_like(args[0])
            self.tails.names[out] = waits[0]
            rest = len(func._schema.returns) - 1
            return (out, *[out.new_empty(0)] * rest) if rest else out
        if path is not None and self.behind_cut:
            self._refresh(path, args[0], args)
        return func(*args, **kwargs)

    def on_view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Follow a waiting product through a view of its rows."""
        out = func(*args, **kwargs)
        self.tails.follow(args[0], out)
        return out

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """At a sum with a residual stream: fit the product that waits for it, and redo it."""
        names = self.tails.of(args) if _is_sum(func, args, kwargs) else []
        names = [name for name in names if name in self.waiting]
        if not names:
            return func(*args, **kwargs)
        name = list(self.waiting)[max(list(self.waiting).index(n) for n in names)]
        at = next(i for i, a in enumerate(args) if self.tails.of(a) == [name])
        redone = self._fit_to_sum(name, args[1 - at]).reshape(args[at].shape)
        total = redone + args[1 - at]
        if func._schema.name == "aten::add":
            return total
        self.tails.names.pop(args[0], None)
        return args[0].copy_(total)

    def _fit_to_sum(self, name: str, stream: Tensor) -> Tensor:
        """Fit the product so that it and `stream` together are the dense model's sum."""
        product, func, args = self.waiting.pop(name)
        norm = self.norms.pop(name, None)
        target = self.reference.targets[name]
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
        known = self.statistics.pop(norm) if norm in self.statistics else _statistics(x)
        _refresh(known, call)

    def _fit(self, product: Product, wanted: Tensor) -> None:
        """Least squares of `wanted` (places, outputs) on the present inputs, near the weight."""
        target = self.reference.targets[product.name]
        parameter = self.named[product.name]
        weight = parameter if product.input_dim == 1 else parameter.T
        weight = weight.reshape(product.blocks, -1, product.inputs).float()
        rows = product.rows(target.places)  # (blocks, n, d)
        wanted = wanted.reshape(wanted.shape[0], product.blocks, -1).transpose(0, 1)
        free = target.bias is not None or target.norm is not None
        middle = rows.mean(1, keepdim=True) if free else torch.zeros_like(rows[:, :1])
        level = wanted.mean(1, keepdim=True) if free else torch.zeros_like(wanted[:, :1])
        rows = rows - middle
        rest = wanted - level - rows @ weight.mT
        second = (rows.mT @ rows).double() / rows.shape[1]
        cross = (rows.mT @ rest).double() / rows.shape[1]
        scale = second.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
        eye = torch.eye(product.inputs, dtype=second.dtype, device=second.device)
        factor, failed = torch.linalg.cholesky_ex(second + self.ridge * scale[:, None, None] * eye)
        if bool(failed.any()) or not bool(torch.isfinite(cross).all()):
            return
        fresh = weight + torch.cholesky_solve(cross, factor).mT.float()
        level = level.flatten()
        mean = (middle @ fresh.mT).flatten()
        shift = level - mean
        spread = ((fresh @ second.float()) * fresh).sum(2).flatten()
        fresh = fresh.flatten(0, 1)
        parameter.copy_((fresh if product.input_dim == 1 else fresh.T).reshape(parameter.shape))
        if target.bias is not None:
            self.named[target.bias].copy_(shift)
        elif target.mean is not None:
            running = self.named[f"{target.norm}.running_mean"]
            running.copy_(target.mean[self.kept[product.name]] - shift)
            self.statistics[target.norm] = (mean, spread)


def _like_result(product: Product, args: Any) -> Tensor:
    """An empty tensor for the product's result, in the memory format that it would have."""
    x: Tensor = args[-2] if product.window is None else args[0]
    if product.window is None:
        weight: Tensor = args[-1]
        return x.new_empty((*x.shape[:-1], weight.shape[-1]))
    shape = (x.shape[0], args[1].shape[0], *product.spots())
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x.float(), dims, correction=0)
    return mean, variance


def _refresh(statistics: tuple[Tensor, Tensor], call: Any) -> None:
    """Set running statistics; scale and bias are changed so that the function stays.

    `call` are the arguments of the batch normalisation.
    """
    now, fresh = statistics
    weight, bias, mean, variance, _, _, epsilon = call[1:8]
    if weight is not None and bias is not None:
        bias += weight * (now - mean) * (variance + epsilon).rsqrt()
        weight *= ((fresh + epsilon) / (variance + epsilon)).sqrt()
    mean.copy_(now)
    variance.copy_(fresh)
