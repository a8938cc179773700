"""Nested structures of tensors, such as batches: transferred between devices, mapped, sampled."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU when it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_device(value: Any, device: torch.device | str) -> Any:
    """The same structure (see `mapped`) with every tensor on `device`.

    >>> to_device((torch.ones(2), {"ids": torch.zeros(1)}, "as it is"), "cpu")
    (tensor([1., 1.]), {'ids': tensor([0.])}, 'as it is')
    """
    return mapped(lambda tensor: tensor.to(device, non_blocking=True), value)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same structure with `function` applied to every tensor, in containers of the same types.

    Structures are tuples, lists, mappings, dataclasses and `SimpleNamespace`s; any other value is
    returned unchanged.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        items = {key: mapped(function, item) for key, item in value.items()}
        return items if type(value) is dict else _like(value, items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(function, item) for item in value)
    named = attributes(value)
    if named is None:
        return value
    changed = copy.copy(value)
    for name, item in named.items():
        object.__setattr__(changed, name, mapped(function, item))
    return changed


def attributes(value: Any) -> dict[str, Any] | None:
    """What a dataclass or a `SimpleNamespace` holds, by name; None for anything else."""
    if isinstance(value, SimpleNamespace):
        return dict(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return None


def _like(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """A mapping of the type of `value`, or a plain one where that cannot be written to."""
    try:
        changed: Any = copy.copy(value)
        for key, item in items.items():
            changed[key] = item
    except TypeError:
        return items
    return cast("Mapping[Any, Any]", changed)


def first_sample(value: Any) -> Any:
    """The first sample of a batch's inputs, still with a batch dimension, on the CPU."""
    if isinstance(value, Tensor):
        return value[:1].detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: first_sample(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(first_sample(item) for item in value)
    return value


def without_workers(value: Any) -> Any:
    """A copy of a DataLoader that has not started any worker process; anything else as it is."""
    if not isinstance(value, DataLoader):
        return value
    fresh = copy.copy(value)
    fresh._iterator = None
    return fresh
