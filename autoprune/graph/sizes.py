"""Integers that remember their source: a dimension of a tensor, or an attribute of a module.

While a model is traced, `x.shape` gives such numbers for dimensions that carry ids, and the
integers that its modules hold are such numbers too. Where one of them, or a result of arithmetic
with it, becomes the size of a dimension, the source is what must change when channels are pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.graph.types import Indices


@dataclass(frozen=True)
class Held:
    """The integer `value` at `keys` in an attribute of the module at `module`."""

    module: str
    name: str
    keys: tuple[str | int, ...] = ()
    value: int = 0


@dataclass(frozen=True, eq=False)
class Seen:
    """The size of a dimension with these ids, of the run whose ids they are."""

    label: Indices
    run: object = None


@dataclass(frozen=True, eq=False)
class Made:
    """The result of an operator (`*`, `//`, `+`, or `/` of a number) on two numbers."""

    operator: str
    left: Source | int
    right: Source | int


Source = Held | Seen | Made


LISTENER: ContextVar[Callable[[Held, Seen], None] | None] = ContextVar("listener", default=None)
"""Who is told when an attribute is found equal to the size of a dimension."""

COMPUTING: ContextVar[Callable[[Source], None] | None] = ContextVar("computing", default=None)
"""Who is told when an integer becomes a number that is no size: in a root, a power, a quotient."""


class Size(int):
    """An integer with its source.

    >>> half = Size(8, Held("", "width")) // 2
    >>> half, half.source.operator
    (4, '//')
    """

    source: Source

    def __new__(cls, value: int, source: Source) -> Size:
        """An integer of that value."""
        self = int.__new__(cls, value)
        self.source = source
        return self

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Size):  # a sum with a literal is as fixed as that one
            return int.__add__(self, other)
        return Size(int(self) + int(other), Made("+", self.source, other.source))

    def __mul__(self, other: Any) -> Any:
        return _made("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _made("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _made("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _made("//", other, self)

    def __truediv__(self, other: Any) -> Any:
        result = int.__truediv__(self, other)
        tell(Made("/", self.source, _source(other)) if isinstance(other, int) else self.source)
        return result

    def __rtruediv__(self, other: Any) -> Any:
        tell(self.source)
        return int.__rtruediv__(self, other)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        result = int.__pow__(self, other, modulus)
        if not isinstance(result, int):
            tell(self.source)
        return result

    def __float__(self) -> float:
        tell(self.source)
        return int.__float__(self)

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)  # NotImplemented: a float, an array, a tensor answers
        if same is True and isinstance(other, Size) and (listener := LISTENER.get()) is not None:
            pair = (self.source, other.source)
            for one, two in (pair, pair[::-1]):
                if isinstance(one, Held) and isinstance(two, Seen):
                    listener(one, two)
        return same

    def __ne__(self, other: object) -> bool:
        same = self.__eq__(other)
        return same if same is NotImplemented else not same

    __hash__ = int.__hash__

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy takes an int for a number of the array's type, and a subclass for an array."""
        plain = (int(value) if isinstance(value, Size) else value for value in inputs)
        result = getattr(ufunc, method)(*plain, **kwargs)
        if getattr(getattr(result, "dtype", None), "kind", "") == "f":
            for value in inputs:
                if isinstance(value, Size):
                    tell(value.source)
        return result

    def __copy__(self) -> Size:
        return self

    def __deepcopy__(self, memo: Any) -> Size:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _made(operator: str, left: Any, right: Any) -> Any:
    if not isinstance(left, int) or not isinstance(right, int):
        method = int.__mul__ if operator == "*" else int.__floordiv__
        for value, other in ((left, right), (right, left)):
            if isinstance(value, Size) and isinstance(other, float):
                tell(value.source)
        if isinstance(left, int):
            return method(int(left), right)
        return NotImplemented
    one, other = int(left), int(right)
    value = one * other if operator == "*" else one // other
    return Size(value, Made(operator, _source(left), _source(right)))


def tell(source: Source) -> None:
    """A number with this source is computed with: whoever listens is told."""
    if (listener := COMPUTING.get()) is not None:
        listener(source)


def _source(value: int) -> Source | int:
    return value.source if isinstance(value, Size) else int(value)


def mark(model: nn.Module) -> None:
    """Replace the integers that the modules of `model` hold by ones that remember where.

    Also those in tuples, lists, and in objects and mappings without tensors (a configuration).
    """
    known: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, (torch.jit.ScriptModule, nn.modules.conv._ConvNd)):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("__") and name not in _OWN:
                vars(module)[name] = _marked(value, Held(path, name), known)


_OWN = frozenset(vars(nn.Module()))
"""What every module holds."""


def _marked(value: Any, held: Held, known: set[int]) -> Any:
    if type(value) is int:
        return Size(value, replace(held, value=value))
    if type(value) in (tuple, list) and all(type(item) is int for item in value):
        return type(value)(_marked(n, _inside(held, i), known) for i, n in enumerate(value))
    for key, item, entries in entries_of(value, known):
        if type(item) is int or isinstance(item, (tuple, list)):
            entries[key] = _marked(item, _inside(held, key), known)
    return value


def holds(module: nn.Module | None, held: Held) -> bool:
    """Whether a module holds this number (it may be left over from another model)."""
    value: Any = vars(module).get(held.name) if module is not None else None
    for key in held.keys:
        try:
            if isinstance(value, (tuple, list)):
                value = value[int(key)]
            else:
                value = (value if isinstance(value, dict) else vars(value)).get(key)
        except (IndexError, TypeError, ValueError):  # that model holds something else there
            return False
    return isinstance(value, Size) and value.source is held


def _inside(held: Held, key: str | int) -> Held:
    return Held(held.module, held.name, (*held.keys, key))


def entries_of(value: Any, known: set[int]) -> Iterator[tuple[str, Any, MutableMapping[str, Any]]]:
    """The entries of a configuration, each with its mapping; none for other values."""
    if id(value) in known:
        return
    entries = value if type(value) is dict else getattr(value, "__dict__", None)
    closed = isinstance(value, (type, nn.Module, torch.Tensor)) or callable(value)
    if type(entries) is not dict or closed:
        return
    known.add(id(value))
    for key, item in list(entries.items()):
        if isinstance(key, str):
            yield key, item, entries
