"""Example inputs as plain values: shapes and types, nothing of the data but the largest integer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from autoprune.errors import StoreError

_MOST_ELEMENTS = 1 << 28
_MOST_NESTED = 20
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}


def described(example: Any) -> Any:
    """What `made` makes a like input of; None where it holds other things than tensors and scalars.

    >>> described({"x": torch.zeros(1, 3)})
    {'dict': {'x': {'tensor': [1, 3], 'dtype': 'float32'}}}
    """
    try:
        return _described(example)
    except TypeError:
        return None


def made(description: Any) -> Any:
    """An input as `described`: zeros, or the largest integer (a token, a length) everywhere.

    Raises StoreError where the description is damaged.
    """
    try:
        return _made(description, 0)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise StoreError(f"inputs of the recipe are damaged: {error}") from error


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in _TYPES:
            raise TypeError(dtype)
        found: dict[str, Any] = {"tensor": list(value.shape), "dtype": dtype}
        if not value.is_floating_point() and value.numel():
            found["fill"] = int(value.max())
        return found
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _described(item) for key, item in value.items()}}
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return {type(value).__name__: [_described(item) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(type(value).__name__)


def _made(description: Any, depth: int) -> Any:
    if depth > _MOST_NESTED:
        raise ValueError("nested too deeply")
    if "tensor" in description:
        return _tensor(description)
    if "dict" in description:
        return {key: _made(item, depth + 1) for key, item in description["dict"].items()}
    if "tuple" in description:
        return tuple(_made(item, depth + 1) for item in description["tuple"])
    if "list" in description:
        return [_made(item, depth + 1) for item in description["list"]]
    return description["value"]


def _tensor(description: Mapping[str, Any]) -> torch.Tensor:
    shape, dtype = [int(size) for size in description["tensor"]], _TYPES[description["dtype"]]
    if min(shape, default=0) < 0 or math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"a tensor of shape {shape[:8]}")
    return torch.full(shape, int(description.get("fill", 0)), dtype=dtype)
