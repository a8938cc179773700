"""The null object that dropped branches return: neutral in sums of activations, else absorbing.

In the model's own code `x + branch(x)` is then just `x`. What a model's code does between two
modules of a dropped branch (views, permutations, windows) runs on it too; so it knows how many
dimensions the tensor had in whose place it stands, each of size 1. It has no values: code that asks
for one, to decide something, gets a TypeError, and its branch is no block.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

_SUMS = frozenset("add add_ __add__ __radd__ __iadd__".split())  # noqa: SIM905
_SCALED = frozenset("lerp lerp_ addcmul addcmul_".split())  # noqa: SIM905
_DIFFERENCES = frozenset("sub sub_ __sub__ __isub__".split())  # noqa: SIM905
_OWN = frozenset(
    """view reshape expand flatten unsqueeze __getitem__ chunk split split_with_sizes tensor_split
    unbind is_floating_point is_complex""".split()  # noqa: SIM905
)
"""Functions of torch that `Nothing` has as methods of its own."""


class Nothing:
    """Stands where a tensor was; made by `nothing`, one for each kind of tensor."""

    __slots__ = ("device", "dtype", "ndim", "shape")

    layout = torch.strided
    requires_grad = False
    grad = grad_fn = _base = None

    def __init__(self, ndim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.ndim, self.dtype, self.device = ndim, dtype, device
        self.shape = torch.Size((1,) * ndim)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What a function of torch gives for a tensor and nothing."""
        name = getattr(func, "__name__", "")
        if name in _SUMS and len(args) == 2:
            return _sum(*args)
        if name in _SCALED and len(args) > 1:
            return _scaled(name, args[0], args[1:])
        if name in _DIFFERENCES and len(args) == 2:
            return _difference(*args)
        found = _first((*args, *(kwargs or {}).values()))
        if name in _OWN and args and found is args[0]:
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

    __mul__ = __rmul__ = __imul__ = __truediv__ = __rtruediv__ = __itruediv__ = _absorb
    __matmul__ = __rmatmul__ = __pow__ = __rpow__ = __mod__ = __floordiv__ = __neg__ = _absorb
    __abs__ = __invert__ = __and__ = __rand__ = __or__ = __ror__ = __call__ = _absorb
    __lt__ = __le__ = __gt__ = __ge__ = _absorb
    __eq__ = __ne__ = _absorb  # type: ignore[assignment]
    __hash__ = object.__hash__

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError("the result of a dropped block has no value")

    __bool__ = __contains__ = _refuse

    def __getattr__(self, name: str) -> Any:
        """Methods and properties of a tensor; `is_cuda` and its like by the device."""
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        return name == f"is_{self.device.type}" if name.startswith("is_") else self

    def __setitem__(self, index: Any, value: Any) -> None:
        """Nothing is written to."""

    def __len__(self) -> int:
        """1, as every size."""
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return 1

    def __iter__(self) -> Iterator[Nothing]:
        """One part, or as many as the code unpacks it into: `q, k, v = heads`."""
        return iter([self[0]] * min(len(self), 1) * _wanted(sys._getframe(1)))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Nothing, ...]:
        """So many parts."""
        return (self,) * chunks

    def split(self, *sizes: Any, **kwargs: Any) -> tuple[Nothing, ...]:
        """A part for each size, or as many of one size as are asked for."""
        first = [*sizes, *kwargs.values()][0]
        return (self,) * len(first) if isinstance(first, Sequence) else _Parts((self,))

    split_with_sizes = split

    def tensor_split(self, *places: Any, **kwargs: Any) -> tuple[Nothing, ...]:
        """So many parts, or one more than there are places to cut at."""
        first = [*places, *kwargs.values()][0]
        return (self,) * (first if isinstance(first, int) else len(first) + 1)

    def unbind(self, dim: int = 0) -> tuple[Nothing, ...]:
        """As many as are asked for, with one dimension less."""
        return _Parts((self[0],))

    def is_contiguous(self, **kwargs: Any) -> bool:
        """In every format."""
        return True

    def is_floating_point(self) -> bool:
        """As a tensor of its type."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """As a tensor of its type."""
        return self.dtype.is_complex

    def view(self, *sizes: Any, **kwargs: Any) -> Nothing:
        """As many dimensions as sizes are given, one by one or in a sequence."""
        if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
            return self
        given = [*sizes, *kwargs.values()]
        if given and isinstance(given[0], Iterable):
            given = list(given[0])
        return self._with(len(given))

    reshape = expand = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Nothing:
        """Some dimensions become one."""
        last = max(self.ndim, 1)
        return self._with(last - (end_dim % last - start_dim % last))

    def unsqueeze(self, dim: int) -> Nothing:
        """One dimension more."""
        return self._with(self.ndim + 1)

    def __getitem__(self, index: Any) -> Nothing:
        """One dimension less for each number, one more for each None."""
        places = index if isinstance(index, tuple) else (index,)
        gone = sum(isinstance(place, int) for place in places)
        return self._with(max(0, self.ndim - gone + sum(place is None for place in places)))

    def size(self, dim: int | None = None) -> Any:
        """Every size is 1."""
        return self.shape if dim is None else 1

    def dim(self) -> int:
        """As a tensor has it."""
        return self.ndim

    def _with(self, ndim: int) -> Nothing:
        return nothing(ndim, self.dtype, self.device)

    def __deepcopy__(self, memo: Any) -> Nothing:
        """There is one only."""
        return self

    def __reduce__(self) -> Any:
        """There is one only."""
        return nothing, (self.ndim, self.dtype, self.device)


class _Parts(tuple[Nothing, ...]):
    """Equal parts of which nobody knows how many there were."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Nothing]:
        return iter([self[0]] * _wanted(sys._getframe(1)))

    def __getitem__(self, index: Any) -> Any:
        return self if isinstance(index, slice) else tuple.__getitem__(self, 0)


def _wanted(frame: FrameType) -> int:
    """How many values the code at a frame unpacks; 1 where it goes through them.

    The bytecode tells, which `torch.fx.Proxy` asks for the same reason.
    """
    code, place = frame.f_code.co_code, frame.f_lasti
    return code[place + 1] if dis.opname[code[place]] == "UNPACK_SEQUENCE" else 1


_CPU = torch.device("cpu")


def nothing(ndim: int, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> Nothing:
    """The one that stands for tensors of so many dimensions, of that type and on that device."""
    return _one(ndim, dtype, device)


_one = functools.cache(Nothing)


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


def _scaled(name: str, first: Any, rest: Sequence[Any]) -> Any:
    """An interpolation of two is one of them; a product added to something adds nothing to it."""
    if name.startswith("lerp"):
        return _sum(first, rest[0])
    return first if _is_activation(first) else _first((first, *rest))


def _difference(one: Any, other: Any) -> Any:
    if isinstance(other, Nothing):
        return one if _is_activation(one) else other
    return -other if _is_activation(other) else one


def _is_activation(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
