"""The tensors in the output of a model."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
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


def answers_in(result: Any) -> list[Tensor]:
    """The tensors in `result` whose shape must not change: all but those of a cache.

    A cache (a key or attribute with `cache` or `past_key_values` in its name, the state of an
    encoder beside a decoder's output) is read by the same model in its next step, and may be
    pruned with the model.

    >>> answers_in({"logits": Tensor([3.0]), "cache": [Tensor([4.0])]})
    [tensor([3.])]
    """
    return tensors_in(result, without=_CACHE) or tensors_in(result)


def tensors_in(result: Any, without: re.Pattern[str] | None = None) -> list[Tensor]:
    """Every tensor in `result`, in order; a tensor that occurs twice is listed twice.

    Searched are containers, registered pytrees, and the attributes (also slots) of any other
    object; cycles are followed once. Entries whose name matches `without` are skipped.

    >>> from types import SimpleNamespace
    >>> tensors_in([SimpleNamespace(score=Tensor([3.0])), {"x": (Tensor([4.0]), "name")}])
    [tensor([3.]), tensor([4.])]
    """
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # holds what was seen, so that no id is given again
    waiting = [result]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif not isinstance(item, _CLOSED) and id(item) not in seen:
            seen[id(item)] = item
            waiting.extend(reversed(_parts(item, without)))
    return found


def _parts(item: Any, without: re.Pattern[str] | None) -> list[Any]:
    if isinstance(item, Mapping):
        return _wanted(item, without)
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return list(item)
    parts: list[Any] = pytree.tree_leaves(item, is_leaf=lambda node: node is not item)
    if len(parts) != 1 or parts[0] is not item:
        return parts
    return _wanted({**getattr(item, "__dict__", {}), **_slots(item)}, without)


def _wanted(named: Mapping[Any, Any], without: re.Pattern[str] | None) -> list[Any]:
    if without is None:
        return list(named.values())
    return [value for name, value in named.items() if not without.search(str(name))]


def _slots(item: Any) -> dict[str, Any]:
    names = [
        name
        for base in type(item).__mro__
        for name, held in vars(base).items()
        if isinstance(held, MemberDescriptorType) and name != "__dict__"
    ]
    return {name: getattr(item, name) for name in names if hasattr(item, name)}
