"""The dense model's outputs, layer by layer, on a few calibration samples: targets of a refit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import UsageError
from autoprune.graph.mode import name_of
from autoprune.pruning.calibration import Forward, evaluating, run, take
from autoprune.pruning.computed_weights import plain_weights
from autoprune.pruning.linear_ops import LinearOp, LinearOpMode, NormTracker

_MIN_ROWS = 8_192  # places that are drawn of each product, more where it has very many inputs
_MAX_INPUTS = 2_304  # the outputs of a wider product are not kept


@dataclass(frozen=True, eq=False)
class LayerTarget:
    """Outputs of one layer of the dense model at some places: `outputs` (places, outputs).

    `total` are the same places of the sum with the residual stream, where the product (or the batch
    normalization `norm` behind it) goes into an addition and nowhere else. `mean` is that
    normalization's running mean. `count` is the number of all places, `input_dim` the contracted
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
class ReferenceBatch:
    """Calibration samples of one shape, as one batch, and the dense model's outputs by weight."""

    batch: Any
    samples: int
    targets: Mapping[str, LayerTarget]


@dataclass(frozen=True, eq=False)
class DenseOutputs:
    """The dense model's outputs on calibration samples, in as few batches as can be, largest first.

    One batch, unless their shapes differ (sequences that are padded batch by batch).
    """

    parts: tuple[ReferenceBatch, ...]

    @property
    def samples(self) -> int:
        """How many samples all parts hold."""
        return sum(part.samples for part in self.parts)

    @property
    def targets(self) -> Mapping[str, LayerTarget]:
        """One target of each weight, of the first part that has one."""
        return {name: t for part in reversed(self.parts) for name, t in part.targets.items()}


def record(
    dense: nn.Module,
    batches: Iterable[Any],
    *,
    max_samples: int = 512,
    seed: int = 0,
    forward: Forward | None = None,
) -> DenseOutputs:
    """Run the dense model once over `max_samples` samples and keep its outputs.

    Batches whose inputs differ in their first size only are run as one. At least 8,192 places of
    each product are drawn with `seed`. Batches and `forward` as in `calibrate`; the model is
    unchanged. Raises UsageError when there is no batch.
    """
    joined = _join(batches, max_samples, forward)
    seen = sum(samples for _, samples in joined)
    means = dict(dense.named_buffers())
    parts = []
    with plain_weights(dense):
        for batch, samples in joined:
            watch = _Watch(dense, samples, seed, share=samples / seen)
            try:  # 1.5 times as fast for images on a CPU, but code with `view` may not take it
                batch = _watched(watch, dense, _channels_last(batch), forward)
            except RuntimeError:
                watch = _Watch(dense, samples, seed, share=samples / seen)
                batch = _watched(watch, dense, batch, forward)
            parts.append(ReferenceBatch(batch, samples, watch.targets(means)))
    return DenseOutputs(tuple(parts))


def _join(batches: Iterable[Any], limit: int, forward: Forward | None) -> list[tuple[Any, int]]:
    """The first `limit` samples in as few batches as can be, with sizes, the largest first."""
    alike: list[tuple[Any, list[list[Any]], list[int]]] = []  # of one form: leaves, sizes
    seen = 0
    for batch in batches:
        part, size = take(batch, limit - seen)
        if forward is None and isinstance(part, tuple | list):
            part = (part[0],)  # targets may differ in shape
        leaves, spec = tree_flatten(part)
        form = (spec, [_form(leaf) for leaf in leaves])
        if not any(form == known for known, _, _ in alike):
            alike.append((form, [], []))
        _, rows, sizes = next(entry for entry in alike if entry[0] == form)
        rows.append(leaves)
        sizes.append(size)
        seen += size
        if seen >= limit:
            break
    if not alike:
        raise UsageError("a reference needs at least one batch, got none · pass a loader with data")
    joined = [
        (tree_unflatten([_cat(column) for column in zip(*rows, strict=True)], form[0]), sum(sizes))
        for form, rows, sizes in alike
    ]
    return sorted(joined, key=lambda entry: -entry[1])


def _form(leaf: Any) -> Any:
    """What leaves must share to be joined: the shape except for the first dimension."""
    return leaf.shape[1:] if isinstance(leaf, Tensor) and leaf.dim() else type(leaf)


def _cat(column: Sequence[Any]) -> Any:
    joinable = isinstance(column[0], Tensor) and column[0].dim()
    return torch.cat(list(column)) if joinable else column[0]


def _channels_last(batch: Any) -> Any:
    def convert(x: Any) -> Any:
        images = isinstance(x, Tensor) and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if images else x

    return tree_map(convert, batch)


def _watched(watch: _Watch, dense: nn.Module, batch: Any, forward: Forward | None) -> Any:
    with evaluating(dense), torch.no_grad(), watch:
        run(dense, batch, forward)
    return batch


class ResultTracker:
    """Tensors that are a product's result, or its batch normalization's, and used only once."""

    def __init__(self) -> None:
        self.names: Any = WeakTensorKeyDictionary()

    def follow(self, old: Any, new: Any) -> None:
        """`new` is a view of `old`, or its normalization."""
        name = self.names.get(old) if isinstance(old, Tensor) else None
        if name is not None and isinstance(new, Tensor):
            self.names[new] = name

    def of(self, tensors: Any) -> list[str]:
        """The products whose results are among these tensors."""
        found = [self.names.get(t) for t in tree_flatten(tensors)[0] if isinstance(t, Tensor)]
        return [name for name in found if name is not None]


def is_sum(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the call adds two tensors of the same shape."""
    return (
        name_of(func) in ("aten::add", "aten::add_")
        and not kwargs
        and len(args) == 2
        and all(isinstance(a, Tensor) for a in args)
        and args[0].shape == args[1].shape
    )


def _same_rows(old: Tensor, new: Any) -> bool:
    """Whether `new` is a view of all rows (along the last dimension) of `old`, in their order."""
    return (
        isinstance(new, Tensor)
        and new.shape[-1:] == old.shape[-1:]
        and new.numel() == old.numel()
        and new.is_contiguous()
        and old.is_contiguous()
    )


class _Watch(LinearOpMode):  # type: ignore[no-untyped-call]
    """Records the outputs of each layer of the dense model."""

    def __init__(self, model: nn.Module, samples: int, seed: int, share: float = 1.0) -> None:
        super().__init__(model)
        self.size, self.share = samples, share
        self.generator = torch.Generator().manual_seed(seed)
        self.norm_tracker = NormTracker()
        self.results = ResultTracker()
        self.order: list[str] = []
        self.calls: dict[str, tuple[LinearOp, Tensor, Tensor]] = {}  # product, places, outputs
        self.uses: dict[str, int] = {}
        self.totals: dict[str, Tensor] = {}

    def on_linear_op(self, func: Any, args: Any, product: LinearOp | None, x: Tensor) -> Any:
        """Keep the outputs at some places."""
        out = func(*args)
        self.norm_tracker.used_by(x)
        self._used(x)
        if product is None:
            return out
        if product.name in self.order:
            self.skipped[product.name] = "called several times"
            return out
        self.order.append(product.name)
        wanted = math.ceil(self.share * max(_MIN_ROWS, 4 * product.inputs))
        places = product.draw(wanted, self.generator)
        # without its input, to free the activations
        slim = replace(product, x=product.x.new_empty(0))
        self.calls[product.name] = (slim, places, product.outputs(out, places))
        self.norm_tracker.produced(out, product.name)
        self.results.names[out] = product.name
        return out

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """Follow a product through its normalization."""
        self.norm_tracker.used_by(args[0], path)
        out = func(*args, **kwargs)
        if path is None:
            self._used(args[0])
        else:
            self.results.follow(args[0], out[0] if isinstance(out, tuple) else out)
        return out

    def on_view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Follow a matrix product's result through a view of its rows."""
        out = func(*args, **kwargs)
        self.norm_tracker.used_by(args[0])
        names = self.results.of(args[0])
        if names and _same_rows(args[0], out) and self.calls[names[0]][0].window is None:
            self.results.follow(args[0], out)
        else:
            self._used(args[0])
        return out

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Keep the sum with a residual stream."""
        names = self.results.of(args) if is_sum(func, args, kwargs) else []
        last = max(names, key=self.order.index) if names else None
        self.norm_tracker.used_by((args, kwargs))
        for name in self.results.of((args, kwargs)):
            self._count(name)
        out = func(*args, **kwargs)
        if last is not None:
            product, places, _ = self.calls[last]
            self.totals[last] = product.outputs(out, places)
        if out is args[0]:  # changed in place: no longer the product's result
            self.results.names.pop(out, None)
        return out

    def _used(self, tensor: Tensor) -> None:
        for name in self.results.of(tensor):
            self._count(name)

    def _count(self, name: str) -> None:
        self.uses[name] = self.uses.get(name, 0) + 1

    def targets(self, means: Mapping[str, Tensor]) -> dict[str, LayerTarget]:
        """The targets of all weights without any other use; `means` are running means."""
        biases = [product.bias for product, _, _ in self.calls.values()]
        found = {}
        for name, (product, places, outputs) in self.calls.items():
            if name in self.skipped or product.inputs > _MAX_INPUTS:
                continue
            total = self.totals.get(name) if self.uses.get(name) == 1 else None
            shared = biases.count(product.bias) > 1 or product.bias in self.skipped
            bias = None if shared else product.bias
            norm = self.norm_tracker.norm(name)
            mean = means[f"{norm}.running_mean"].clone() if norm is not None else None
            count = product.items * product.positions
            found[name] = LayerTarget(
                places, outputs, total, bias, norm, mean, count, product.input_dim
            )
        return found
