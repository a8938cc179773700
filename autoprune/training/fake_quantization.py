"""Training in simulated int8, so that the weights learn what rounding will do to them.

Weights and inputs of convolutions and linear layers are rounded in the forward pass, and gradients
pass through the rounding (Jacob et al. 2018, arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TINY = 1e-8


@contextmanager
def fake_quantization(model: nn.Module, weight_bits: int = 7) -> Iterator[None]:
    """Inside, the model computes as its int8 file will, up to ranges taken from each batch.

    Weights: symmetric, a scale for each output channel, `weight_bits` wide; inputs: 8 bits with a
    zero point, one scale a tensor. Nothing is stored: parameters and buffers stay what they are.
    """
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    handles = [layer.register_forward_pre_hook(_round_input) for layer in layers]
    try:
        for layer in layers:
            weight = layer._parameters.get("weight")  # None where it is computed from others
            if weight is not None:  # what lies in `__dict__` is found before the parameter
                layer.__dict__["weight"] = rounded_weight(weight, weight_bits)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("weight", None)
        for handle in handles:
            handle.remove()


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """The weight at its nearest representable values, `2**bits` of them a channel of dimension 0.

    >>> rounded_weight(torch.tensor([[1.0, 0.49], [100.0, -100.0]]), 3)
    tensor([[   1.0000,    0.3333],
            [ 100.0000, -100.0000]])
    """
    most = 2 ** (bits - 1) - 1
    largest = weight.detach().flatten(1).abs().amax(1).clamp_min(_TINY)
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(
        weight, largest.float() / most, zeros, 0, -most, most
    )


def rounded_activation(x: Tensor) -> Tensor:
    """The tensor at 256 values between its least and its largest element, 0 being one of them."""
    least, largest = x.detach().aminmax()
    low, high = least.clamp(max=0.0), largest.clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp_min(_TINY).float()
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def _round_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(rounded_activation(x) if _is_float(x) else x for x in args)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 0
