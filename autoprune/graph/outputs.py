"""The tensors in the output of a model."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

_CLOSED = (
    *(str, bytes, int, float, complex, type, nn.Module),
    *(ModuleType, FunctionType, MethodType, BuiltinFunctionType),
)
"""What holds no output: a module or a function that a result refers to is not a part of it."""


_CACHE = re.compile(r"cache|past_key_values|\bpast\b|\bmems\b|encoder_last_hidden_state")
"""Names of what a decoder returns for its next step only."""

_CACHE_CLASS = re.compile(r"Cache$")
"""Names of classes of such objects (transformers' `Cache` and what is derived from it)."""


def answers_in(result: Any) -> list[Tensor]:
    """The tensors in `result` whose shape must not change: all but those of a cache.

    A cache (a key or attribute with `cache` or `past_key_values` in its name, an object whose class
    is called so, a pair of keys and values for each layer, the state of an encoder beside a
    decoder's output) is read by the same model in its next step, and may be pruned with the model.

    >>> answers_in({"logits": Tensor([3.0]), "cache": [Tensor([4.0])]})
    [tensor([3.])]
    """
    return tensors_in(result, cached=False) or tensors_in(result)


def pairs_in(result: Any) -> list[Tensor]:
    """The tensors that look like the keys and values of each layer, and may be something else.

    They are in lists or tuples of pairs of tensors with 4 dimensions, of which all but the last
    are the same in all of them. Those within a cache by name or class are none.
    """
    return [t for item in _items(result, cached=False) if _is_pairs(item) for t in tensors_in(item)]


def tensors_in(result: Any, *, cached: bool = True) -> list[Tensor]:
    """Every tensor in `result`, in order; a tensor that occurs twice is listed twice.

    Searched are containers, registered pytrees, and the attributes (also slots) of any other
    object; cycles are followed once. What is a cache by its name, class or form is skipped unless
    `cached`.

    >>> from types import SimpleNamespace
    >>> tensors_in([SimpleNamespace(score=Tensor([3.0])), {"x": (Tensor([4.0]), "name")}])
    [tensor([3.]), tensor([4.])]
    """
    return [item for item in _items(result, cached) if isinstance(item, Tensor)]


def _items(result: Any, cached: bool) -> Iterator[Any]:
    """`result` and everything in it, but (unless `cached`) not what is in a cache."""
    seen: dict[int, Any] = {}  # holds what was seen, so that no id is given again
    waiting = [result]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif not isinstance(item, _CLOSED) and id(item) not in seen:
            seen[id(item)] = item
            yield item
            if cached or not (_is_cache(item) or _is_pairs(item)):
                waiting.extend(reversed(_parts(item, cached)))


def _is_cache(item: Any) -> bool:
    return any(_CACHE_CLASS.search(base.__name__) for base in type(item).__mro__)


def _is_pairs(item: Any) -> bool:
    if not isinstance(item, (list, tuple)) or not item:
        return False
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in item):
        return False
    held = [tensor for pair in item for tensor in pair]
    if not all(isinstance(tensor, Tensor) and tensor.dim() == 4 for tensor in held):
        return False
    return len({tensor.shape[:3] for tensor in held}) == 1


def _parts(item: Any, cached: bool) -> list[Any]:
    if isinstance(item, Mapping):
        return _wanted(item, cached)
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return list(item)
    parts: list[Any] = pytree.tree_leaves(item, is_leaf=lambda node: node is not item)
    if len(parts) != 1 or parts[0] is not item:
        return parts
    return _wanted({**getattr(item, "__dict__", {}), **_slots(item)}, cached)


def _wanted(named: Mapping[Any, Any], cached: bool) -> list[Any]:
    return [value for name, value in named.items() if cached or not _CACHE.search(str(name))]


def _slots(item: Any) -> dict[str, Any]:
    names = [
        name
        for base in type(item).__mro__
        for name, held in vars(base).items()
        if isinstance(held, MemberDescriptorType) and name != "__dict__"
    ]
    return {name: getattr(item, name) for name in names if hasattr(item, name)}
