"""Training in simulated int8, so that the weights learn what rounding will do to them.

Weights and inputs of convolutions (transposed ones, too), linear layers, the projections of
attention, and of any other matrix product or convolution with a parameter (`Conv1D` of
transformers) are rounded in the forward pass, and gradients pass through the rounding (Jacob et al.
2018, arXiv:1712.05877). Recurrent layers are not: static quantization has no operator for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED, nn.MultiheadAttention)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_PROJECTED = ("query", "key", "value")  # the first arguments of attention; masks are not rounded
_TINY = 1e-8

_Place = tuple[int, str]  # of an argument: its position, and its name
_WEIGHTED = ((0, "input"), (1, "weight"))
_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSING = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_MATRICES = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
_PRODUCTS: dict[Any, tuple[_Place, _Place, int]] = {
    F.linear: (*_WEIGHTED, 0),
    **dict.fromkeys(_CONVOLUTIONS, (*_WEIGHTED, 0)),
    **dict.fromkeys(_TRANSPOSING, (*_WEIGHTED, 1)),
    **dict.fromkeys(_MATRICES, ((0, "input"), (1, "other"), -1)),
    **dict.fromkeys((torch.mm, Tensor.mm), ((0, "input"), (1, "mat2"), -1)),
    torch.addmm: ((1, "mat1"), (2, "mat2"), -1),
}
"""Function → where its inputs and its weight are, and the weight's dimension of outputs."""


@contextmanager
def fake_quantization(model: nn.Module, weight_bits: int = 7) -> Iterator[None]:
    """Inside, the model computes as its int8 file will, up to ranges taken from each batch.

    Weights: symmetric, a scale for each output channel, `weight_bits` wide; inputs: 8 bits with a
    zero point, one scale a tensor. Nothing is stored: parameters and buffers stay what they are.
    """
    with ExitStack() as stack:
        for layer in list(model.modules()):
            if isinstance(layer, _LAYERS):
                handle = layer.register_forward_pre_hook(_round_input, with_kwargs=True)
                stack.callback(handle.remove)
                dim = 1 if isinstance(layer, _TRANSPOSED) else 0
                for name in _weights(layer):
                    stack.enter_context(_rounded(layer, name, weight_bits, dim))
        stack.enter_context(_Products(model, weight_bits))
        yield


def rounded_weight(weight: Tensor, bits: int, dim: int = 0) -> Tensor:
    """The weight at its nearest representable values, `2**bits` of them a channel (of `dim`).

    >>> rounded_weight(torch.tensor([[1.0, 0.49], [100.0, -100.0]]), 3)
    tensor([[   1.0000,    0.3333],
            [ 100.0000, -100.0000]])
    """
    most = 2 ** (bits - 1) - 1
    largest = weight.detach().movedim(dim, 0).flatten(1).abs().amax(1).clamp_min(_TINY)
    zeros = torch.zeros(len(largest), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(
        weight, largest.float() / most, zeros, dim, -most, most
    )


def rounded_activation(x: Tensor) -> Tensor:
    """The tensor at 256 values between its least and its largest element, 0 being one of them."""
    least, largest = x.detach().aminmax()
    low, high = least.clamp(max=0.0), largest.clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp_min(_TINY).float()
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


@contextmanager
def _rounded(layer: nn.Module, name: str, bits: int, dim: int) -> Iterator[None]:
    """The layer computes with a rounded weight, also where that is computed from others."""
    held, chains = vars(layer), getattr(layer, "parametrizations", {})
    before = held.get(name)  # what a hook computed (`torch.nn.utils.weight_norm`)
    if name in chains:
        chains[name].append(_Rounding(bits, dim))
    elif (parameter := layer._parameters.get(name)) is not None:
        held[name] = rounded_weight(parameter, bits, dim)  # `__dict__` is looked into first

    def again(*_: Any) -> None:
        """After the hook that computed it, in this call."""
        nonlocal before
        before = held[name]
        held[name] = rounded_weight(before, bits, dim)

    handle = layer.register_forward_pre_hook(again) if before is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
            held[name] = before
        elif name in chains:
            del chains[name][-1]
        else:
            held.pop(name, None)


class _Rounding(nn.Module):
    """The last step of a parametrization: the weight rounded."""

    def __init__(self, bits: int, dim: int) -> None:
        super().__init__()
        self._bits, self._dim = bits, dim

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        return rounded_weight(weight, self._bits, self._dim)


class _Products(TorchFunctionMode):
    """Rounds both operands of products with the model's parameters.

    Layers whose weights are rounded already have none inside.
    """

    def __init__(self, model: nn.Module, bits: int) -> None:
        super().__init__()
        self._own = {id(parameter) for parameter in model.parameters()}
        self._bits = bits

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What the function gives for rounded operands."""
        given, named = list(args), dict(kwargs or {})
        if func in _PRODUCTS:
            x_at, weight_at, dim = _PRODUCTS[func]
            x, weight = _taken(given, named, x_at), _taken(given, named, weight_at)
            if _is_float(x) and self._is_weight(weight):
                _put(given, named, x_at, rounded_activation(x))
                dim %= weight.dim()
                _put(given, named, weight_at, rounded_weight(weight, self._bits, dim))
        return func(*given, **named)

    def _is_weight(self, weight: Any) -> bool:
        """Whether it is a matrix or filter among the parameters, or a view of one."""
        if not _is_float(weight) or weight.dim() < 2:
            return False
        return id(weight) in self._own or id(weight._base) in self._own


def _taken(args: Sequence[Any], kwargs: Mapping[str, Any], place: _Place) -> Any:
    position, name = place
    return args[position] if position < len(args) else kwargs.get(name)


def _put(args: list[Any], kwargs: dict[str, Any], place: _Place, value: Any) -> None:
    position, name = place
    if position < len(args):
        args[position] = value
    else:
        kwargs[name] = value


def _weights(layer: nn.Module) -> tuple[str, ...]:
    return _PROJECTIONS if isinstance(layer, nn.MultiheadAttention) else ("weight",)


def _round_input(
    layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    most, names = len(args), set(kwargs)
    if isinstance(layer, nn.MultiheadAttention):
        most, names = len(_PROJECTED), names.intersection(_PROJECTED)
    given = [*args[:most], *(kwargs[name] for name in names)]
    rounded = {id(x): rounded_activation(x) for x in given if _is_float(x)}  # one tensor stays one
    return (
        tuple(rounded.get(id(x), x) if place < most else x for place, x in enumerate(args)),
        {name: rounded.get(id(x), x) if name in names else x for name, x in kwargs.items()},
    )


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0
