"""The result of a trace: groups of units that are pruned together, and all sizes as functions of
them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoprune.architecture import BLOCK, Architecture
from autoprune.errors import GraphError

Indices = NDArray[np.int64]
Role = Literal["out", "in", "affine"]
Kind = Literal["channel", "head", "ffn"]
BlockKind = Literal["residual", "attention", "ffn"]
POSITIONS, SOURCE = "positions", "source"
"""Buffers of a smaller layer that slides over channels: their positions in the dense layer, and for
each position of that the channel."""
Structure = Any  # a pytree: what a module returned, without its tensors


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of a tensor that belongs to a group: unit u owns `indices[u]` along `dim`.

    `tensor` is a `state_dict` key; `indices` has the shape (units, k). `role` is `out` where the
    channel is produced (weight rows and their bias), `in` where it is consumed (the contracted
    dimension of a weight), `affine` for per-channel tensors (norms, scales, buffers).
    """

    tensor: str
    dim: int
    indices: Indices
    role: Role


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are pruned in the same way; each is a set of slices that must be pruned together.

    Attributes:
        name: path of the first layer that produces the units.
        kind: `channel` (or neuron), `head` of attention, or `ffn`: hidden unit between two layers.
        size: how many units there are.
        slices: for every tensor that holds a part of the units, which part.
    """

    name: str
    kind: Kind
    size: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Frozen:
    """`size` output channels of the layer `name` that are not prunable, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Dim:
    """A size that is linear in the widths: `fixed + sum(per_unit[g] * kept[g])`.

    >>> Dim(8, {"conv1": 2}).size({"conv1": 3})
    14
    """

    fixed: int
    per_unit: Mapping[str, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Equal dimensions hash alike (a mapping has no hash of its own)."""
        return hash((self.fixed, tuple(sorted(self.per_unit.items()))))

    def size(self, kept: Mapping[str, int]) -> int:
        """The size with `kept[g]` units; every group in `per_unit` must be in `kept`."""
        return self.fixed + sum(n * kept[group] for group, n in self.per_unit.items())

    def freeze(self, sizes: Mapping[str, int]) -> Dim:
        """The same dimension with the groups in `sizes` counted as fixed at those sizes."""
        if not any(group in sizes for group in self.per_unit):
            return self
        gone = sum(n * sizes[g] for g, n in self.per_unit.items() if g in sizes)
        rest = {g: n for g, n in self.per_unit.items() if g not in sizes}
        return Dim(self.fixed + gone, rest)


@dataclass(frozen=True)
class TensorInfo:
    """An activation. Tensors with equal `storage` share memory (views, in-place results)."""

    dims: tuple[Dim, ...]
    itemsize: int
    storage: int


@dataclass(frozen=True)
class Op:
    """One ATen call of the run, in execution order.

    `layer` is the path of the innermost module that was running ("" for the model itself).
    `inputs` and `outputs` index `PruningGraph.tensors`; `parameters` are names of parameters and
    buffers that the call reads. The product of `macs` is the number of multiply-accumulates;
    () means none.
    """

    name: str
    layer: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...]
    macs: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """A Python attribute of a module that holds a size: an int when `scalar`, else a tuple.

    With `keys` the int is found inside of it (in a tuple, an object, a mapping). One that is
    `guessed` is no part of a known layer: it only equals the size of a view.
    """

    module: str
    name: str
    dims: tuple[Dim, ...]
    scalar: bool = True
    guessed: bool = False
    keys: tuple[str | int, ...] = ()


@dataclass(frozen=True, eq=False)
class Block:
    """The branch `f` of a residual addition `x + f(x)`; without it `x` remains.

    `addition` and `calls` (with it) index `PruningGraph.ops`; `left` is the tensor that remains of
    the sum. `modules` are the outermost modules entirely within the branch, with the structure of
    what each returns; `tensors` its parameters and buffers, of which `loose` are held by modules
    outside of it.
    """

    name: str
    kind: BlockKind
    addition: int
    calls: frozenset[int]
    left: int
    modules: tuple[tuple[str, Structure], ...]
    tensors: tuple[str, ...]
    loose: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """Its name among the groups, as one with a single unit."""
        return f"{BLOCK}{self.name}"

    @property
    def presence(self) -> Dim:
        """1 with the block, 0 without."""
        return Dim(0, {self.column: 1})

    def called(self, name: str) -> Block:
        """The same block with a name."""
        return replace(self, name=name)

    def moved(self, places: Mapping[int, int]) -> Block:
        """The same block where calls have other places, or none."""
        calls = frozenset(places[call] for call in self.calls if call in places)
        return replace(self, addition=places[self.addition], calls=calls)


@dataclass(frozen=True, eq=False)
class PruningGraph:
    """The groups of a model, what is not prunable, and all sizes as functions of the widths.

    `positions` are sizes of buffers that the model does not have before it is pruned (`POSITIONS`
    and `SOURCE`, of four bytes each).
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    ops: tuple[Op, ...]
    tensors: tuple[TensorInfo, ...]
    parameters: Mapping[str, tuple[Dim, ...]]
    buffers: Mapping[str, tuple[Dim, ...]]
    positions: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    attributes: tuple[Attribute, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    itemsizes: Mapping[str, int] = field(default_factory=dict)  # parameter or buffer → bytes each
    freed: Mapping[int, int] | None = None  # storage → the last call for which the run held it
    blocks: tuple[Block, ...] = ()
    dropped: frozenset[str] = frozenset()  # blocks that it has had
    averages: bool = False  # some call takes means, variances or extremes over units of groups

    def group(self, name: str) -> Group:
        """The group of that name. Raises GraphError that names the nearest known one."""
        return _named(self.groups, name, "group")

    def sizes(self) -> dict[str, int]:
        """Units of each group."""
        return {group.name: group.size for group in self.groups}

    def dims(self, name: str) -> tuple[Dim, ...]:
        """The sizes of a parameter or buffer, also of one that pruning makes."""
        for held in (self.parameters, self.buffers):
            if name in held:
                return held[name]
        return self.positions[name]

    def columns(self) -> dict[str, int]:
        """All that can be pruned: units of each group, and 1 for each block under its `column`."""
        return {**self.sizes(), **{block.column: 1 for block in self.blocks}}

    def counts(self, architecture: Architecture) -> dict[str, int]:
        """The value of each of `columns` in an architecture.

        Raises GraphError for a group or block that does not exist, or a width above its size.
        """
        dropped = {self.block(name).column for name in architecture.dropped}
        for name, width in architecture.widths.items():
            size = self.group(name).size
            if width > size:
                raise GraphError(f"widths[{name!r}] must be from 1 to {size} units, got {width}")
        return {
            name: 0 if name in dropped else architecture.widths.get(name, size)
            for name, size in self.columns().items()
        }

    def present(self) -> tuple[tuple[Dim, ...], ...]:
        """For each call the blocks that it is part of, as factors that are 0 without them."""
        factors: list[tuple[Dim, ...]] = [()] * len(self.ops)
        for block in self.blocks:
            for call in block.calls:
                factors[call] += (block.presence,)
        return tuple(factors)

    def presence_of(self, name: str) -> tuple[Dim, ...]:
        """The same for a parameter or buffer."""
        return tuple(block.presence for block in self.blocks if name in block.tensors)

    def block(self, name: str) -> Block:
        """The block of that name. Raises GraphError that names the nearest known one."""
        return _named(self.blocks, name, "block")

    def lost(self, dropped: Iterable[str]) -> frozenset[str]:
        """The groups that lie entirely within these blocks."""
        gone = {tensor for name in dropped for tensor in self.block(name).tensors}
        return frozenset(
            group.name
            for group in self.groups
            if all(piece.tensor in gone for piece in group.slices)
        )

    def without(self, dropped: Iterable[str]) -> PruningGraph:
        """The graph of the model without these blocks."""
        blocks = [self.block(name) for name in dropped]
        if not blocks:
            return self
        gone = {tensor for block in blocks for tensor in block.tensors}
        calls = frozenset[int]().union(*(block.calls for block in blocks))
        lost = self.lost(block.name for block in blocks)
        gone_sizes = {name: self.group(name).size for name in lost}
        inside = tuple(f"{path}." for block in blocks for path, _ in block.modules)
        stays = [call for call in range(len(self.ops)) if call not in calls]
        last_first = sorted(blocks, key=lambda block: -block.addition)
        return replace(
            self,
            groups=tuple(
                replace(g, slices=tuple(s for s in g.slices if s.tensor not in gone))
                for g in self.groups
                if g.name not in lost
            ),
            ops=tuple(self._read_around(call, last_first) for call in stays),
            parameters={n: dims for n, dims in self.parameters.items() if n not in gone},
            buffers={n: dims for n, dims in self.buffers.items() if n not in gone},
            positions={n: dims for n, dims in self.positions.items() if n not in gone},
            attributes=tuple(
                replace(a, dims=tuple(dim.freeze(gone_sizes) for dim in a.dims))
                for a in self.attributes
                if not f"{a.module}.".startswith(inside)
            ),
            blocks=tuple(
                block.moved({call: place for place, call in enumerate(stays)})
                for block in self.blocks
                if not block.calls <= calls
            ),
            dropped=self.dropped | {b.name for b in self.blocks if b.calls <= calls},
        )

    def _read_around(self, call: int, blocks: Sequence[Block]) -> Op:
        """The call with the remaining operand in place of the sum; the last block first."""
        op = self.ops[call]
        inputs = op.inputs
        for block in blocks:
            summed = self.ops[block.addition].outputs[0]
            if call > block.addition and summed in inputs:
                inputs = tuple(block.left if t == summed else t for t in inputs)
        return op if inputs is op.inputs else replace(op, inputs=inputs)

    def checked(self, keep: Mapping[str, Sequence[int]]) -> dict[str, Indices]:
        """`keep` as ascending arrays for every group; groups that are not named keep all units.

        Raises GraphError for an unknown group, an index out of range, or a group left empty.
        """
        for name in keep:
            self.group(name)
        result = {}
        for group in self.groups:
            given = keep.get(group.name, range(group.size))
            kept = np.unique(np.asarray(tuple(given), dtype=np.int64))
            if not kept.size or kept[0] < 0 or kept[-1] >= group.size or kept.size != len(given):
                raise GraphError(
                    f"keep[{group.name!r}] must hold 1 to {group.size} different units in "
                    f"[0, {group.size - 1}], got {list(given)[:8]}"
                )
            result[group.name] = kept
        return result

    def removed(self, keep: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], Indices]:
        """The removed indices as {(tensor, dim): ascending indices}, without empty entries."""
        gone: dict[tuple[str, int], list[Indices]] = {}
        for name, kept in self.checked(keep).items():
            group = self.group(name)
            out = np.setdiff1d(np.arange(group.size), kept)
            if out.size:
                for piece in group.slices:
                    gone.setdefault((piece.tensor, piece.dim), []).append(
                        piece.indices[out].ravel()
                    )
        return {key: np.unique(np.concatenate(parts)) for key, parts in gone.items()}

    def shrink(self, keep: Mapping[str, Sequence[int]]) -> PruningGraph:
        """The graph of the model after surgery with `keep`: fewer units, indices renumbered."""
        kept, gone = self.checked(keep), self.removed(keep)

        def shrunk(group: Group) -> Group:
            rows = kept[group.name]
            slices = []
            for piece in group.slices:
                indices, out = piece.indices[rows], gone.get((piece.tensor, piece.dim))
                if out is not None:
                    indices = indices - np.searchsorted(out, indices)
                slices.append(replace(piece, indices=indices))
            return replace(group, size=len(rows), slices=tuple(slices))

        return replace(self, groups=tuple(shrunk(group) for group in self.groups))

    def freeze(self, reasons: Mapping[str, str]) -> PruningGraph:
        """The same graph with the named groups not prunable, for the given reasons."""
        sizes = {name: self.group(name).size for name in reasons}

        def fixed(dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
            return tuple(dim.freeze(sizes) for dim in dims)

        added = tuple(Frozen(name, sizes[name], reason) for name, reason in reasons.items())
        return replace(
            self,
            groups=tuple(group for group in self.groups if group.name not in sizes),
            frozen=self.frozen + added,
            ops=tuple(replace(op, macs=fixed(op.macs)) for op in self.ops),
            tensors=tuple(replace(info, dims=fixed(info.dims)) for info in self.tensors),
            parameters={name: fixed(dims) for name, dims in self.parameters.items()},
            buffers={name: fixed(dims) for name, dims in self.buffers.items()},
            positions={name: fixed(dims) for name, dims in self.positions.items()},
            attributes=tuple(replace(a, dims=fixed(a.dims)) for a in self.attributes),
        )


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


_Named = TypeVar("_Named", bound=_HasName)


def _named(items: Sequence[_Named], name: str, what: str) -> _Named:
    """The item of that name. Raises GraphError with the nearest name where there is none."""
    for item in items:
        if item.name == name:
            return item
    known = [item.name for item in items]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f" · the nearest is {near[0]!r}" if near else f" · this model has no {what}s"
    raise GraphError(f"{what} must be one of the model's {len(known)} {what}s, got {name!r}{hint}")
