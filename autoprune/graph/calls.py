"""Records of a run: tensors, calls, and attributes that hold sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from autoprune.graph.ids import Labels
from autoprune.graph.mode import is_program, name_of
from autoprune.graph.types import Indices


@dataclass(frozen=True, eq=False)
class Statistic:
    """Reduced dimensions, the reason why they are not prunable, and whether it was inverted.

    With `picked` one position was selected instead: harmless only while it is not used.
    """

    labels: tuple[Indices, ...]
    reason: str
    inverse: bool = False
    picked: bool = False


@dataclass(eq=False, slots=True)
class State:
    """What the run knows of one tensor.

    `names` are the parameters or buffers that it is a view of, `weight` says that it was computed
    from those alone and is none of their activations, `zero` that pruned positions are zero in the
    masked model. `index` is its place in `Flow.tensors` (-1: a view of a parameter, which costs
    nothing). `statistic` says that it was computed from means over channels, or from one of them.
    `layers` hold the parameters of a tensor that was computed from parameters alone.
    """

    labels: Labels
    index: int = -1
    names: tuple[str, ...] = ()
    weight: bool = False
    zero: bool = False
    statistic: Statistic | None = None
    layers: frozenset[str] = frozenset()


@dataclass(eq=False, slots=True)
class Activation:
    """A tensor of the run: its shape, its labels and its memory."""

    shape: tuple[int, ...]
    labels: Labels
    itemsize: int
    storage: int


@dataclass(eq=False, slots=True)
class Record:
    """One call of the run, before groups are known."""

    name: str
    layer: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...]
    macs: tuple[int | Indices, ...]


@dataclass(eq=False, slots=True)
class Note:
    """An attribute of a module and the sizes that it holds (`guessed`: may equal it by chance)."""

    module: str
    name: str
    sizes: tuple[int | Indices, ...]
    scalar: bool
    guessed: bool = False
    keys: tuple[str | int, ...] = ()


@dataclass(eq=False, slots=True)
class Site:
    """A view that splits a dimension: the ids, the part that carries them now, all sizes."""

    key: int
    ids: Indices
    choice: int
    carried: int
    others: tuple[int, ...] = ()


@dataclass(eq=False)
class Call:
    """One ATen call as its rule sees it."""

    name: str
    args: Mapping[str, Any]
    outs: list[Tensor]
    labels: list[Labels] = field(default_factory=list)
    zero: bool = False
    weight: bool = False
    macs: tuple[int | Indices, ...] = ()
    statistic: Statistic | None = None

    def __getitem__(self, name: str) -> Any:
        return self.args.get(name)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [a for a in pytree.tree_leaves(list(self.args.values())) if isinstance(a, Tensor)]

    @staticmethod
    def of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """The call with its arguments under the names of the operator's schema, if it has one."""
        if is_program(func):
            return Call(name_of(func), {**{str(n): a for n, a in enumerate(args)}, **kwargs}, [])
        arguments = func._schema.arguments
        bound = {argument.name: argument.default_value for argument in arguments}
        bound.update(zip((argument.name for argument in arguments), args, strict=False))
        bound.update(kwargs)
        return Call(str(func._schema.name).removeprefix("aten::"), bound, [])

    def viewed(self, out: Tensor, before: Sequence[State]) -> tuple[str, ...]:
        """The parameters of which a result is a view."""
        for tensor, state in zip(self.tensors, before, strict=True):
            if state.names and same_storage(tensor, out):
                return state.names
        return ()


class Storages:
    """Numbers for storages; views of one memory get one number."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self._count = 0
        self.freed: dict[int, int] = {}

    def note_freed(self, call: int) -> None:
        """For each storage freed by now, note the previous call in `freed`."""
        gone = [key for key, (reference, _) in self._known.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            self.freed[self._known.pop(key)[1]] = call - 1

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor's storage; addresses are reused once a storage is freed."""
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            known = self._known.get(storage._cdata)
            if known is not None and not known[0].expired():  # type: ignore[no-untyped-call]
                return known[1]
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._known[storage._cdata] = (reference, self._count)
        self._count += 1
        return self._count - 1


_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that hold a tensor: its indices and values if it is sparse, else itself.

    >>> [tuple(part.shape) for part in parts_of(torch.eye(3).to_sparse())]
    [(2, 3), (3,)]
    """
    names = _PARTS.get(tensor.layout)
    return (tensor,) if names is None else tuple(getattr(tensor, name)() for name in names)


def layout_of(tensor: Tensor) -> tuple[tuple[int, ...], int]:
    """Sizes and bytes of an element; a sparse tensor is as many elements of one byte as it takes.

    >>> layout_of(torch.zeros(2, 3)), layout_of(torch.eye(3).to_sparse())
    (((2, 3), 4), ((60,), 1))
    """
    parts = parts_of(tensor)
    if len(parts) == 1:
        return tuple(tensor.shape), tensor.element_size()
    return (sum(part.nbytes for part in parts),), 1


def elements(tensor: Tensor) -> int:
    """The number of stored elements: of a sparse tensor those of its values."""
    return parts_of(tensor)[-1].numel()


def same_storage(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors share memory."""
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one is other
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def owner(name: str) -> str:
    """The path of the module that a parameter or buffer belongs to.

    >>> owner("a.conv.parametrizations.weight.original0")
    'a.conv'
    """
    path = name.rpartition(".")[0]
    return path.partition(".parametrizations.")[0] if ".parametrizations." in path else path
