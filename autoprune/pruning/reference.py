"""What the dense model puts out on a few calibration samples, as targets for a smaller one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import UsageError
from autoprune.pruning.calibration import Forward, evaluating, run, take
from autoprune.pruning.products import Followers, Product, ProductMode

_MIN_ROWS = 8_192  # places that are drawn of each product, more where it has very many inputs
_MAX_INPUTS = 2_304  # the outputs of a wider product are not kept


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


class Tails:
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


def is_sum(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the call adds two tensors of the same shape."""
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
        self.tails = Tails()
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
        slim = replace(product, x=product.x.new_empty(0))
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
        names = self.tails.of(args) if is_sum(func, args, kwargs) else []
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
        biases = [product.bias for product, _, _ in self.calls.values()]
        found = {}
        for name, (product, places, outputs) in self.calls.items():
            if name in self.skipped or product.inputs > _MAX_INPUTS:
                continue
            total = self.totals.get(name) if self.uses.get(name) == 1 else None
            shared = biases.count(product.bias) > 1 or product.bias in self.skipped
            bias = None if shared else product.bias
            norm = self.followers.norm(name)
            mean = means[f"{norm}.running_mean"].clone() if norm is not None else None
            count = product.items * product.positions
            found[name] = Target(places, outputs, total, bias, norm, mean, count, product.input_dim)
        return found
