"""Training in simulated int8, so that the weights learn what rounding will do to them.

Weights and inputs of convolutions (transposed ones, too), linear layers and the projections of
attention are rounded in the forward pass, and gradients pass through the rounding (Jacob et al.
2018, arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED, nn.MultiheadAttention)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_PROJECTED = ("query", "key", "value")  # the first arguments of attention; masks are not rounded
_TINY = 1e-8


@contextmanager
def fake_quantization(model: nn.Module, weight_bits: int = 7) -> Iterator[None]:
    """Inside, the model computes as its int8 file will, up to ranges taken from each batch.

    Weights: symmetric, a scale for each output channel, `weight_bits` wide; inputs: 8 bits with a
    zero point, one scale a tensor. Nothing is stored: parameters and buffers stay what they are.
    """
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    handles = [layer.register_forward_pre_hook(_round_input, with_kwargs=True) for layer in layers]
    try:
        for layer in layers:
            dim = 1 if isinstance(layer, _TRANSPOSED) else 0
            for name in _weights(layer):
                weight = layer._parameters.get(name)  # None where it is computed from others
                if weight is not None:  # what lies in `__dict__` is found before the parameter
                    layer.__dict__[name] = rounded_weight(weight, weight_bits, dim)
        yield
    finally:
        for layer in layers:
            for name in _weights(layer):
                layer.__dict__.pop(name, None)
        for handle in handles:
            handle.remove()


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
