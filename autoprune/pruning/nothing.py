"""The null object that dropped branches return: neutral in sums of activations, else absorbing.

In the model's own code `x + branch(x)` is then just `x`. What a model's code does between two
modules of a dropped branch (views, permutations, windows) runs on it too; so it knows how many
dimensions the tensor had in whose place it stands, each of size 1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SUMS = frozenset("add add_ __add__ __radd__ __iadd__".split())  # noqa: SIM905
_DIFFERENCES = frozenset("sub sub_ __sub__ __isub__".split())  # noqa: SIM905
_SHAPING = frozenset("view reshape expand flatten unsqueeze __getitem__".split())  # noqa: SIM905


class Nothing:
    """Stands where a tensor of `ndim` dimensions was; made by `nothing`, one for each number."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self.shape = torch.Size((1,) * ndim)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What a function of torch gives for a tensor and nothing."""
        name = getattr(func, "__name__", "")
        if name in _SUMS and len(args) == 2:
            return _sum(*args)
        if name in _DIFFERENCES and len(args) == 2:
            return _difference(*args)
        found = _first((*args, *(kwargs or {}).values()))
        if name in _SHAPING and args and found is args[0]:
            return getattr(found, name)(*args[1:], **(kwargs or {}))
        return found

    def __add__(self, other: Any) -> Any:
        """The other summand; nothing where that is a number or a parameter."""
        return _sum(self, other)

    __radd__ = __iadd__ = __add__

    def __rsub__(self, other: Any) -> Any:
        """What nothing is subtracted from."""
        return _difference(other, self)

    def __sub__(self, other: Any) -> Any:
        """The other operand with its sign changed; nothing where `__add__` gives nothing."""
        return _difference(self, other)

    def _absorb(self, *args: Any, **kwargs: Any) -> Nothing:
        return self

    __mul__ = __rmul__ = __imul__ = __truediv__ = __matmul__ = __rmatmul__ = _absorb
    __neg__ = __pow__ = __call__ = _absorb

    def __getattr__(self, name: str) -> Nothing:
        """Methods and properties of a tensor."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def view(self, *sizes: Any, **kwargs: Any) -> Nothing:
        """As many dimensions as sizes are given, one by one or in a sequence."""
        if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
            return self
        given = [*sizes, *kwargs.values()]
        if given and isinstance(given[0], Iterable):
            given = list(given[0])
        return nothing(len(given))

    reshape = expand = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Nothing:
        """Some dimensions become one."""
        last = max(self.ndim, 1)
        return nothing(last - (end_dim % last - start_dim % last))

    def unsqueeze(self, dim: int) -> Nothing:
        """One dimension more."""
        return nothing(self.ndim + 1)

    def __getitem__(self, index: Any) -> Nothing:
        """One dimension less for each number, one more for each None."""
        places = index if isinstance(index, tuple) else (index,)
        gone = sum(isinstance(place, int) for place in places)
        return nothing(max(0, self.ndim - gone + sum(place is None for place in places)))

    def size(self, dim: int | None = None) -> Any:
        """Every size is 1."""
        return self.shape if dim is None else 1

    def dim(self) -> int:
        """As a tensor has it."""
        return self.ndim

    def __deepcopy__(self, memo: Any) -> Nothing:
        """There is one only."""
        return self

    def __reduce__(self) -> Any:
        """There is one only."""
        return nothing, (self.ndim,)


@functools.cache
def nothing(ndim: int) -> Nothing:
    """The one that stands for tensors of so many dimensions."""
    return Nothing(ndim)


def _first(values: Iterable[Any]) -> Nothing:
    """The first that is among the arguments of a function, or in a list of them."""
    for value in values:
        if isinstance(value, Nothing):
            return value
        if isinstance(value, (list, tuple)):
            inside = [item for item in value if isinstance(item, Nothing)]
            if inside:
                return inside[0]
    return nothing(1)


def _sum(one: Any, other: Any) -> Any:
    empty, rest = (one, other) if isinstance(one, Nothing) else (other, one)
    return rest if _is_activation(rest) else empty


def _difference(one: Any, other: Any) -> Any:
    if isinstance(other, Nothing):
        return one if _is_activation(one) else other
    return -other if _is_activation(other) else one


def _is_activation(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
