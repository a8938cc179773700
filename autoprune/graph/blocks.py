"""Blocks that can be dropped: the branches of residual additions.

In `x + f(x)` everything that only `f` uses is removed together with the addition. A block is found
from the operations alone: an addition, and the calls that nothing else needs without one of its
operands. That operand must be computed from the other one, also through a norm that other calls
read (or from the input of a cheaper shortcut). An interpolation (`lerp`) is such an addition, too,
and a difference `x - f(x)` or a scaled addition (`addcmul`), of which only `f` can go.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.graph.calls import owner
from autoprune.graph.types import Block, Op, PruningGraph, Structure

_ONLY_SECOND = ("sub", "sub_", "addcmul", "addcmul_")
ADDITIONS = ("add", "add_", "lerp", "lerp_", *_ONLY_SECOND)
_ATTENTION = ("softmax", "attention")
_PRODUCTS = ("addmm", "mm", "bmm", "linear", "matmul", "baddbmm")
_PLAIN = (bool, int, float, str, type(None))

Kind = Literal["residual", "attention", "ffn"]


class Slot:
    """Placeholder of a tensor of `ndim` dimensions in the structure of a module's output."""

    def __init__(self, ndim: int = 1) -> None:
        self.ndim = ndim

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot)

    def __hash__(self) -> int:
        return hash(Slot)


def structure_of(result: Any) -> Structure | None:
    """A module's output with `Slot` for tensors; None where it contains other objects."""
    leaves, spec = pytree.tree_flatten(result)
    if not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        return None
    slots = [Slot(leaf.dim()) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    try:
        return pytree.tree_unflatten(slots, spec)
    except Exception:  # noqa: BLE001  a class of its own may look into what it is given
        return None


def find_blocks(
    graph: PruningGraph,
    modules: Mapping[str, nn.Module],
    structures: Mapping[str, Structure | None],
) -> tuple[Block, ...]:
    """The blocks of a traced model in execution order; each can be dropped alone or with others.

    `modules` are those of the model by path, `structures` the output structure of each.
    Branches without weights are left out, and those with outputs of unknown structure.
    """
    values = _Values(graph)
    called = [path for path in modules if not _is_list(modules[path])]
    layout = _Layout.of(graph, called, values.idle())
    found = []
    for addition, op in enumerate(graph.ops):
        if op.name in ADDITIONS and len(op.inputs) == 2:
            branch = values.branch(addition)
            if branch is not None:
                found.append(_block(graph, branch, layout, structures))
    return _named([block for block in found if block is not None], graph)


@dataclass(frozen=True)
class _Branch:
    """An addition, the calls removed with it, and the operand that remains."""

    addition: int
    calls: frozenset[int]
    left: int


class _Values:
    """Tensors by version: an in-place call makes a new value."""

    def __init__(self, graph: PruningGraph) -> None:
        self._graph = graph
        self._reads: list[list[int]] = []
        self._writes: list[list[int]] = []
        self._readers: dict[int, list[int]] = defaultdict(list)
        current: dict[int, int] = {}
        self._tensor: list[int] = []
        for tensor in graph.inputs:
            self._version(current, tensor)
        for call, op in enumerate(graph.ops):
            reads = [current[t] if t in current else self._version(current, t) for t in op.inputs]
            for value in reads:
                self._readers[value].append(call)
            self._reads.append(reads)
            self._writes.append([self._version(current, t) for t in op.outputs])
        self._outputs = {current[t] for t in graph.outputs if t in current}
        self._maker = {v: call for call, written in enumerate(self._writes) for v in written}
        self._idle = self.idle()

    def _version(self, current: dict[int, int], tensor: int) -> int:
        self._tensor.append(tensor)
        current[tensor] = len(self._tensor) - 1
        return current[tensor]

    def branch(self, addition: int) -> _Branch | None:
        """The branch that can be dropped at an addition, None if there is none."""
        reads, (written, *_) = self._reads[addition], self._writes[addition] or [-1]
        if written < 0 or reads[0] == reads[1] or len({self._shape(v) for v in reads}) != 1:
            return None
        if self._shape(written) != self._shape(reads[0]):
            return None
        dead = [self._dead(addition, value) for value in reads]
        if self._graph.ops[addition].name in _ONLY_SECOND:
            dead[0] = set()
        for gone, left in ((0, 1), (1, 0)):
            if self._comes_from(self._reads_of(dead[gone]), reads[left]):
                return self._checked(addition, dead[gone], reads[left])
        work = [sum(bool(self._graph.ops[c].macs) for c in calls) for calls in dead]
        gone = 0 if work[0] > work[1] else 1
        sources = self._reads_of(dead[1 - gone])
        if work[0] != work[1] and sources and sources <= self._reads_of(dead[gone]):
            return self._checked(addition, dead[gone], reads[1 - gone])
        return None

    def _checked(self, addition: int, calls: set[int], left: int) -> _Branch | None:
        if not any(self._graph.ops[call].macs for call in calls):
            return None
        return _Branch(addition, frozenset(calls), self._tensor[left])

    def _dead(self, addition: int, value: int) -> set[int]:
        """The calls that nothing needs if the addition does not read `value`."""
        dead: set[int] = set()
        for call in range(addition - 1, -1, -1):
            written = self._writes[call]
            if self._outputs.isdisjoint(written) and any(
                reader in dead or (reader == addition and out == value)
                for out in written
                for reader in self._readers[out]
            ):
                readers = {(out, reader) for out in written for reader in self._readers[out]}
                alive = {r for out, r in readers if r not in dead and (out, r) != (value, addition)}
                if alive <= self._idle:
                    dead.add(call)
        return dead

    def _comes_from(self, values: set[int], left: int) -> bool:
        """Whether one of the values is the other operand, or computed from it or its terms."""
        summands = [left]
        for value in summands:
            call = self._maker.get(value, -1)
            if call >= 0 and self._graph.ops[call].name in ADDITIONS:
                summands += self._reads[call]
        first = min(self._maker.get(value, -1) for value in summands)
        seen, waiting = set(values), list(values)
        while waiting:
            value = waiting.pop()
            if value in summands:
                return True
            maker = self._maker.get(value, -1)
            fresh = set(self._reads[maker]) - seen if maker > first else set()
            seen |= fresh
            waiting += fresh
        return False

    def _reads_of(self, calls: set[int]) -> set[int]:
        made = {value for call in calls for value in self._writes[call]}
        return {value for call in calls for value in self._reads[call]} - made

    def idle(self) -> frozenset[int]:
        """Calls whose results nothing reads (of weights alone, of scratch memory)."""
        idle: set[int] = set()
        for call in range(len(self._writes) - 1, -1, -1):
            readers = {reader for out in self._writes[call] for reader in self._readers[out]}
            if readers <= idle and self._outputs.isdisjoint(self._writes[call]):
                idle.add(call)
        return frozenset(idle)

    def _shape(self, value: int) -> tuple[Any, ...]:
        return self._graph.tensors[self._tensor[value]].dims


@dataclass(frozen=True)
class _Layout:
    """Where everything is in a model, found once for all of its blocks.

    `places` are the calls inside each module and `needed` those whose results are read, `holders`
    the modules around each parameter and buffer, `readers` the needed calls that read it.
    """

    places: Mapping[str, set[int]]
    needed: Mapping[str, set[int]]
    holders: Mapping[str, frozenset[str]]
    readers: Mapping[str, set[int]]

    @staticmethod
    def of(graph: PruningGraph, modules: Iterable[str], idle: frozenset[int]) -> _Layout:
        places = _calls_of(graph.ops, modules)
        needed = {path: calls - idle for path, calls in places.items() if calls - idle}
        names = [*graph.parameters, *graph.buffers, *graph.positions]
        readers: dict[str, set[int]] = defaultdict(set)
        for call, op in enumerate(graph.ops):
            for name in op.parameters if call not in idle else ():
                readers[name].add(call)
        holders = {name: frozenset(_upwards(owner(name))) for name in names}
        return _Layout(places, needed, holders, readers)


def _calls_of(ops: Sequence[Op], modules: Iterable[str]) -> dict[str, set[int]]:
    """The calls inside each module."""
    places: dict[str, set[int]] = {path: set() for path in modules if path}
    for call, op in enumerate(ops):
        for path in _upwards(op.layer):
            if path in places:
                places[path].add(call)
    return places


def _is_list(module: nn.Module) -> bool:
    """Whether the model's code goes through it instead of calling it: only what it holds can go."""
    return getattr(type(module), "forward", None) is nn.Module.forward


def _upwards(path: str) -> Iterator[str]:
    """A module's path and those of its parents, without the model itself."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _block(
    graph: PruningGraph,
    branch: _Branch,
    layout: _Layout,
    structures: Mapping[str, Structure | None],
) -> Block | None:
    inside = {path for path, calls in layout.needed.items() if calls <= branch.calls}
    whole = sorted(p for p in inside if inside.isdisjoint(_upwards(p.rpartition(".")[0])))
    if any(path in structures and structures[path] is None for path in whole):
        return None
    read = {n for c in (*branch.calls, branch.addition) for n in graph.ops[c].parameters}
    gone_calls = branch.calls | {c for p in inside for c in layout.places[p]} | {branch.addition}
    held = list(layout.holders)
    covered = {n for n in held if not inside.isdisjoint(layout.holders[n])}
    gone = {n for n in read | covered if layout.readers.get(n, set()) <= gone_calls}
    kinds = [graph.ops[call].name for call in branch.calls if graph.ops[call].macs]
    kind: Kind = "residual"
    if any(word in graph.ops[call].name for call in branch.calls for word in _ATTENTION):
        kind = "attention"
    elif all(name in _PRODUCTS for name in kinds):
        kind = "ffn"
    return Block(
        name="",
        kind=kind,
        addition=branch.addition,
        calls=frozenset(gone_calls),
        left=branch.left,
        modules=tuple((path, structures.get(path, Slot())) for path in whole),
        tensors=tuple(name for name in held if name in gone),
        loose=tuple(name for name in held if name in gone - covered),
    )


def _named(blocks: Sequence[Block], graph: PruningGraph) -> tuple[Block, ...]:
    """Name each block by the module that it fills, or else by the largest of its modules.

    The code of the model itself may use parameters alone: then by the largest of these.
    """
    homes = [_common([*(p for p, _ in b.modules), graph.ops[b.addition].layer]) for b in blocks]
    crowded = {home for home, count in Counter(homes).items() if count > 1 or not home}
    crowded |= {h for h in homes if any(o.startswith(f"{h}.") for o in homes)}
    used: Counter[str] = Counter()
    named, elements = [], _elements(graph) if crowded else {}
    for block, home in zip(blocks, homes, strict=True):
        name = _largest(block, graph, elements) if home in crowded else home
        used[name] += 1
        named.append(block.called(name if used[name] == 1 else f"{name}#{used[name]}"))
    return tuple(named)


def _common(paths: Sequence[str]) -> str:
    parts = [path.split(".") for path in paths]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def _elements(graph: PruningGraph) -> Counter[str]:
    """How many elements of parameters each module holds."""
    sizes, found = graph.sizes(), Counter[str]()
    for name, dims in graph.parameters.items():
        count = math.prod(dim.size(sizes) for dim in dims)
        found.update(dict.fromkeys(_upwards(owner(name)), count))
    return found


def _largest(block: Block, graph: PruningGraph, elements: Mapping[str, int]) -> str:
    paths = [path for path, _ in block.modules]
    if paths:
        return max(paths, key=lambda path: elements.get(path, 0))
    sizes = graph.sizes()

    def count(name: str) -> int:
        return math.prod(dim.size(sizes) for dim in graph.parameters.get(name, ()))

    return graph.ops[block.addition].layer or max(block.tensors, key=count, default="block")
