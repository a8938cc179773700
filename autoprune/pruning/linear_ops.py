"""The linear operations y = W x of a running model: which weight, which inputs, which outputs.

They are convolutions and matrix products with a parameter as it is stored, or with the transpose of
a matrix. Their inputs are given as rows (the patch under the kernel for each output position, or a
token; of a transposed convolution, what each tap of the kernel brings to an output position, or 0)
that can be sampled one by one, so that large activations are never unfolded completely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.graph.mode import Mode, is_program, name_of


@dataclass(frozen=True, eq=False)
class LinearOp:
    """One call of y = W x, its inputs and outputs by place (a flat index of sample and position).

    `blocks` is the number of groups of a convolution, `inputs` the columns of one block;
    `input_dim` is the contracted dimension of the weight. `items` x `positions` is the number of
    places. `window` is (kernel, stride, padding, dilation) of a convolution, `output_padding` a
    transposed one's.
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
    output_padding: tuple[int, ...] | None = None

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
        if self.output_padding is not None:
            return self._sources(places)[None]
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
        return spots_of(self.x.shape[2:], self.window, self.output_padding)

    def _sources(self, places: Tensor) -> Tensor:
        """Of a transposed convolution: (places, inputs) by channel and tap of the kernel.

        The tap k brings x_p to the output position s p - padding + dilation k.
        """
        assert self.window is not None
        kernel, stride, padding, dilation = self.window
        where = torch.unravel_index(places % self.positions, self.spots())
        dims, there, sources = len(kernel), torch.ones((), device=places.device), []
        for dim, spot in enumerate(where):
            taps = torch.arange(kernel[dim], device=places.device)
            shifted = spot[:, None] + padding[dim] - dilation[dim] * taps
            source = shifted.div(stride[dim], rounding_mode="floor")
            last = self.x.shape[2 + dim] - 1
            met = (shifted % stride[dim] == 0) & (source >= 0) & (source <= last)
            shape = [-1, *(kernel[dim] if d == dim else 1 for d in range(dims))]
            there = there * met.reshape(shape)
            sources.append(source.clamp(0, last).reshape(shape))
        item = (places // self.positions).reshape(-1, *[1] * dims)
        rows = self.x.movedim(1, -1)[(item, *sources)].float() * there[..., None]
        return rows.movedim(-1, 1).reshape(len(places), self.inputs)

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


def spots_of(shape: Any, window: Any, output_padding: Any) -> tuple[int, ...]:
    """Output positions of a convolution, by dimension; transposed, where it has output padding."""
    kernel, stride, padding, dilation = window
    sizes = [n + 2 * p for n, p in zip(shape, padding, strict=True)]
    if output_padding is None:
        return places_of(sizes, kernel, stride, dilation)
    return tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, k, s, p, d, more in zip(shape, *window, output_padding, strict=True)
    )


def as_matrix(weight: Tensor, input_dim: int) -> Tensor:
    """(outputs, inputs), the columns in the order of the rows of a product's inputs.

    >>> as_matrix(torch.arange(6).view(1, 2, 3), 0)  # a transposed convolution of 1 channel to 2
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    return (weight if input_dim == 1 else weight.transpose(0, 1)).flatten(1)


def in_shape(matrix: Tensor, shape: torch.Size, input_dim: int) -> Tensor:
    """The inverse of `as_matrix`, for a weight of this shape."""
    if input_dim == 1:
        return matrix.reshape(shape)
    return matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)


class LinearOpMode(Mode):  # type: ignore[no-untyped-call]
    """Runs every operation; the subclass handles linear operations, norms and all others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
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
        name = name_of(func)
        if name == "aten::convolution":
            return self.on_linear_op(func, args, self._convolution(*args[:9]), args[0])
        if name in ("aten::mm", "aten::bmm", "aten::addmm"):
            bias, x, weight = args if name == "aten::addmm" else (None, *args)
            if self.parameter(x) is not None:
                self._mark((x,), {}, "a matrix product")
            return self.on_linear_op(func, args, self._matrix(x, weight, bias), x)
        if "batch_norm" in name:
            return self.on_norm(func, args, kwargs, self._norm_path(args))
        if is_program(func) or not any(
            r.alias_info and not r.alias_info.is_write for r in func._schema.returns
        ):
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
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        return self.parameters.get(tensor.untyped_storage().data_ptr())

    def _convolution(self, x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> LinearOp | None:
        stride, padding, dilation, transposed, output_padding, groups = rest
        found = self.parameter(weight)
        if found is None:
            return None
        if transposed and groups > 1:
            self.skipped[found[0]] = "a transposed convolution in groups"
            return None
        if _layout(weight) != _layout(found[1]):
            self.skipped[found[0]] = _why_not(weight, found[1])
            return None
        window = (tuple(weight.shape[2:]), stride, padding, dilation)
        more = tuple(output_padding) if transposed else None
        input_dim = 0 if transposed else 1
        return LinearOp(
            found[0],
            self._bias(bias),
            groups,
            weight.shape[input_dim] * math.prod(weight.shape[2:]),
            input_dim,
            x.shape[0],
            math.prod(spots_of(x.shape[2:], window, more)),
            x,
            window,
            more,
        )

    def _matrix(self, x: Tensor, weight: Tensor, bias: Any) -> LinearOp | None:
        found = self.parameter(weight)
        if found is None:
            return None
        name, value = found
        if x.layout is not torch.strided:
            self.skipped[name] = "applied to a sparse tensor"
            return None
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
