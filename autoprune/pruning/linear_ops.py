"""The linear operations y = W x of a running model: which weight, which inputs, which outputs.

They are convolutions and matrix products with a parameter as it is stored, or with the transpose of
a matrix. Their inputs are given as rows (the patch under the kernel for each output
position, or a token) that can be sampled one by one, so that large activations are never unfolded
completely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, eq=False)
class LinearOp:
    """One call of y = W x, its inputs and outputs by place (a flat index of sample and position).

    `blocks` is the number of groups of a convolution, `inputs` the columns of one block;
    `input_dim` is the contracted dimension of the weight. `items` x `positions` is the number of
    places. `window` is (kernel, stride, padding, dilation) of a convolution.
    """

    name: str
    bias: str | None
    blocks: int
    inputs: int
    input_dim: int
    items: int
    positions: int
    x: Tensor
    window: tuple[Any, Any, Any, Any] | None = None

    def draw(self, wanted: int, generator: torch.Generator) -> Tensor:
        """At least `wanted` places (all where there are fewer), as many of each item."""
        if wanted >= self.items * self.positions:
            return torch.arange(self.items * self.positions)
        each = min(self.positions, math.ceil(wanted / self.items))
        order = torch.rand(self.items, self.positions, generator=generator)
        chosen = order.topk(each, dim=1).indices.sort(dim=1).values
        return (torch.arange(self.items)[:, None] * self.positions + chosen).flatten()

    def rows(self, places: Tensor) -> Tensor:
        """The inputs (blocks, places, inputs) of the product at these places, in fp32."""
        places = places.to(self.x.device)
        if self.window is None:
            return self.x.reshape(-1, self.inputs)[places].float()[None]
        view, spots = self._patches()
        where = torch.unravel_index(places % self.positions, spots)
        rows = view[(places // self.positions, *where)].float()
        return rows.reshape(len(places), self.blocks, self.inputs).transpose(0, 1)

    def outputs(self, y: Tensor, places: Tensor) -> Tensor:
        """The values (places, outputs) of `y`, shaped like the product's result, in fp32."""
        places = places.to(y.device)
        if self.window is None:
            return y.reshape(-1, y.shape[-1])[places].float()
        spots = tuple(y.shape[2:])
        where = torch.unravel_index(places % self.positions, spots)
        return y.movedim(1, -1)[(places // self.positions, *where)].float()

    def spots(self) -> tuple[int, ...]:
        """Output positions of a convolution by dimension."""
        assert self.window is not None
        kernel, stride, padding, dilation = self.window
        sizes = [n + 2 * p for n, p in zip(self.x.shape[2:], padding, strict=True)]
        return places_of(sizes, kernel, stride, dilation)

    def _patches(self) -> tuple[Tensor, tuple[int, ...]]:
        """A view (items, *spots, channels, *kernel) of the padded input."""
        assert self.window is not None
        kernel, stride, padding, dilation = self.window
        x = F.pad(self.x, [p for pad in reversed(padding) for p in (pad, pad)])
        spots = self.spots()
        steps = x.stride()
        jumps = [s * n for s, n in zip(stride, steps[2:], strict=True)]
        taps = [d * n for d, n in zip(dilation, steps[2:], strict=True)]
        shape = (x.shape[0], *spots, x.shape[1], *kernel)
        return x.as_strided(shape, (steps[0], *jumps, steps[1], *taps)), spots


def places_of(sizes: Any, kernel: Any, stride: Any, dilation: Any) -> tuple[int, ...]:
    """Output positions of a convolution over an input that is padded already."""
    return tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    )


class LinearOpMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation; the subclass handles linear operations, norms and all others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {
            p.untyped_storage().data_ptr(): (name, p) for name, p in model.named_parameters()
        }
        self.running = {
            b.untyped_storage().data_ptr(): name.rpartition(".")[0]
            for name, b in model.named_buffers()
            if name.endswith("running_mean")
        }
        self.skipped: dict[str, str] = {}
        self.size = 1  # samples in the batch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name == "aten::convolution":
            return self.on_linear_op(func, args, self._convolution(*args[:9]), args[0])
        if name in ("aten::mm", "aten::bmm", "aten::addmm"):
            bias, x, weight = args if name == "aten::addmm" else (None, *args)
            if self.parameter(x) is not None:
                self._mark((x,), {}, "a matrix product")
            return self.on_linear_op(func, args, self._matrix(x, weight, bias), x)
        if "batch_norm" in name:
            return self.on_norm(func, args, kwargs, self._norm_path(args))
        if not any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns):
            self._mark(args, kwargs, name)
            return self.on_other(func, args, kwargs)
        return self.on_view(func, args, kwargs)

    def on_linear_op(self, func: Any, args: Any, product: LinearOp | None, x: Tensor) -> Any:
        """A convolution or matrix product; `product` is None where it is not supported."""
        return func(*args)

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """A batch normalization; `path` is its module, None without running statistics."""
        return func(*args, **kwargs)

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Anything else that computes."""
        return func(*args, **kwargs)

    def on_view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A view of its first argument."""
        return func(*args, **kwargs)

    def parameter(self, tensor: Any) -> tuple[str, Tensor] | None:
        """Name and value of the parameter whose memory `tensor` is."""
        if not isinstance(tensor, Tensor):
            return None
        return self.parameters.get(tensor.untyped_storage().data_ptr())

    def _convolution(self, x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> LinearOp | None:
        stride, padding, dilation, transposed, _, groups = rest
        found = self.parameter(weight)
        if found is None:
            return None
        if transposed:
            self.skipped[found[0]] = "a transposed convolution"
            return None
        if _layout(weight) != _layout(found[1]):
            self.skipped[found[0]] = _why_not(weight, found[1])
            return None
        kernel = tuple(weight.shape[2:])
        padded = [n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True)]
        return LinearOp(
            found[0],
            self._bias(bias),
            groups,
            math.prod(weight.shape[1:]),
            1,
            x.shape[0],
            math.prod(places_of(padded, kernel, stride, dilation)),
            x,
            (kernel, stride, padding, dilation),
        )

    def _matrix(self, x: Tensor, weight: Tensor, bias: Any) -> LinearOp | None:
        found = self.parameter(weight)
        if found is None:
            return None
        name, value = found
        if weight.dim() == 3 and weight.stride(0) == 0:  # one matrix for the whole batch
            weight = weight[0]
        straight = value.dim() == 2 and _layout(weight) == _layout(value)
        if not straight and (weight.dim() != 2 or _layout(weight.T) != _layout(value)):
            self.skipped[name] = _why_not(weight, value)
            return None
        rows = x.numel() // x.shape[-1]
        items = self.size if rows % self.size == 0 else rows
        return LinearOp(
            name,
            self._bias(bias),
            1,
            weight.shape[0],
            0 if straight else 1,
            items,
            rows // items,
            x,
        )

    def _bias(self, bias: Any) -> str | None:
        found = self.parameter(bias)
        return found[0] if found else None

    def _norm_path(self, args: Any) -> str | None:
        running = args[3]
        if not isinstance(running, Tensor):
            return None
        return self.running.get(running.untyped_storage().data_ptr())

    def _mark(self, args: Any, kwargs: Any, name: str) -> None:
        for tensor in tree_flatten((args, kwargs))[0]:
            found = self.parameter(tensor)
            if found is not None:
                self.skipped[found[0]] = f"used by {name} as well"


def _layout(weight: Tensor) -> list[tuple[int, int]]:
    """Sizes and strides: outputs, inputs and the kernel's dimensions that are not 1."""
    sizes = list(zip(weight.shape, weight.stride(), strict=True))
    matrix = [(size, step if size > 1 else 0) for size, step in sizes[:2]]
    return matrix + [(size, step) for size, step in sizes[2:] if size > 1]


def _why_not(weight: Tensor, value: Tensor) -> str:
    """Why a product with `weight`, a view of the parameter `value`, is not supported."""
    if weight.numel() != value.numel():
        return "only a part of the weight is used at once"
    return "used through a permuted or reshaped view"


class NormTracker:
    """Tracks what uses the results of linear operations: only a batch normalization, or others."""

    def __init__(self) -> None:
        self.results: Any = WeakTensorKeyDictionary()  # result of a product -> name of its weight
        self.consumers: dict[
            str, set[str | None]
        ] = {}  # weight -> batch normalizations, None: other
        self.producers: dict[str, set[str | None]] = {}  # batch normalization -> weights before it

    def produced(self, out: Tensor, name: str) -> None:
        """`out` is the result of the product with the weight `name`."""
        self.results[out] = name

    def used_by(self, tensors: Any, norm: str | None = None) -> None:
        """The tensors go into the batch normalization `norm`, or into anything else."""
        for tensor in tree_flatten(tensors)[0]:
            producer = self.results.get(tensor) if isinstance(tensor, Tensor) else None
            if producer is not None:
                self.consumers.setdefault(producer, set()).add(norm)
            if norm is not None:
                self.producers.setdefault(norm, set()).add(producer)

    def norm(self, name: str) -> str | None:
        """The batch normalization that takes all results of `name`, and no others."""
        consumers = self.consumers.get(name, set())
        norm = next(iter(consumers)) if len(consumers) == 1 else None
        return norm if norm is not None and self.producers[norm] == {name} else None
