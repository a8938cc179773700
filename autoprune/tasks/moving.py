"""Batches and the device of a model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU when it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_device(value: Any, device: torch.device | str) -> Any:
    """The same nest of tuples, lists and mappings with every tensor on `device`.

    >>> to_device((torch.ones(2), {"ids": torch.zeros(1)}, "as it is"), "cpu")
    (tensor([1., 1.]), {'ids': tensor([0.])}, 'as it is')
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    return value


def first_sample(value: Any) -> Any:
    """The first sample of a batch's inputs, still with a batch dimension, on the CPU."""
    if isinstance(value, Tensor):
        return value[:1].detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: first_sample(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(first_sample(item) for item in value)
    return value
