"""From ids to groups: classes of one signature become a group, label arrays become sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.graph.calls import layout_of, owner
from autoprune.graph.flow import Flow
from autoprune.graph.ids import AFFINE, IN, OUT
from autoprune.graph.types import (
    POSITIONS,
    SOURCE,
    Attribute,
    Dim,
    Frozen,
    Group,
    Indices,
    Kind,
    Op,
    PruningGraph,
    Role,
    Slice,
    TensorInfo,
)

_ROLES: dict[int, Role] = {AFFINE: "affine", OUT: "out", IN: "in"}


class Assembly:
    """The units of a finished run, and sizes, attributes and calls in terms of them."""

    def __init__(self, flow: Flow, model: nn.Module) -> None:
        self._flow = flow
        self._keys = list(flow.owned)  # with the name "": a dimension of a constant
        self._starts = np.array([flow.owned[key][0] for key in self._keys], dtype=np.int64)
        lengths = [len(flow.owned[key]) for key in self._keys]
        self._key_of = np.repeat(np.arange(len(self._keys)), lengths)  # ids are owned in order
        self._roots = flow.ids.roots()
        self._roles = flow.ids.roles()
        self._reasons = flow.ids.reasons()
        self._head_roots = {root for ids in flow.heads_seen for root in flow.ids.find(ids).tolist()}
        order = np.argsort(self._roots, kind="stable")
        heads, first = np.unique(self._roots[order], return_index=True)
        parts = np.split(order, first[1:])
        self._members = dict(zip(heads.tolist(), parts, strict=True)) if len(order) else {}
        self._dims: dict[int, Dim] = {}
        self._unit_group: NDArray[np.int64] = np.full(len(self._roots), -1, dtype=np.int64)
        self._sizes: dict[str, int] = {}
        self._names: list[str] = []
        self.groups = self._make_groups(model)

    def graph(
        self, model: nn.Module, inputs: Sequence[int], outputs: Sequence[int]
    ) -> PruningGraph:
        """The pruning graph of the run."""
        flow = self._flow
        return PruningGraph(
            groups=self.groups,
            frozen=tuple(self._frozen()),
            ops=tuple(
                Op(r.name, r.layer, r.inputs, r.outputs, r.parameters, self._all(r.macs))
                for r in flow.records
            ),
            tensors=tuple(
                TensorInfo(
                    self._all(
                        size if label is None else label
                        for label, size in zip(t.labels, t.shape, strict=True)
                    ),
                    t.itemsize,
                    t.storage,
                )
                for t in flow.tensors
            ),
            parameters={n: self._held(n, p) for n, p in model.named_parameters()},
            buffers={n: self._held(n, b) for n, b in model.named_buffers()},
            positions=dict(self._positions()),
            attributes=self._attributes(),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            itemsizes={
                name: layout_of(tensor)[1]
                for name, tensor in (*model.named_parameters(), *model.named_buffers())
            },
            freed=dict(flow.freed),
            averages=any(self._dim(label).per_unit for label in flow.averaged),
        )

    # --- groups -----------------------------------------------------------------------------

    def _make_groups(self, model: nn.Module) -> tuple[Group, ...]:
        producers = self._roots[self._roles == OUT]
        free = np.setdiff1d(producers, np.array(list(self._reasons), dtype=np.int64))
        signature = self._signatures()
        classes: dict[int, list[int]] = defaultdict(list)
        for root in free.tolist():
            classes[int(signature[root])].append(root)
        names = self._first_layers()
        groups, used = [], set()
        for roots in sorted(classes.values(), key=lambda roots: names[roots[0]][0]):
            name, count = names[roots[0]][1], 2
            while name in used:
                name, count = f"{names[roots[0]][1]}#{count}", count + 1
            used.add(name)
            if len(roots) == 1:
                self._reasons[roots[0]] = "its channels can only be pruned all together"
                continue
            slices = self._slices(np.array(roots, dtype=np.int64))
            groups.append(Group(name, self._kind(model, roots, slices), len(roots), slices))
            self._unit_group[np.array(roots)] = len(self._names)
            self._names.append(name)
            self._sizes[name] = len(roots)
        return tuple(groups)

    def _signatures(self) -> NDArray[np.uint64]:
        """One number a class: which tensors it owns, and how often it occurs in each dimension."""
        draw = np.random.default_rng(0)
        arrays = {id(array): array for array in self._arrays()}
        result = np.zeros(len(self._roots), dtype=np.uint64)
        for array in arrays.values():
            held = array[array >= 0]
            np.add.at(result, self._roots[held], draw.integers(1, 2**63, dtype=np.uint64))
        return result

    def _arrays(self) -> Iterator[Indices]:
        flow = self._flow
        yield from flow.owned.values()
        for tensor in flow.tensors:
            yield from (label for label in tensor.labels if label is not None)
        for record in flow.records:
            yield from (size for size in record.macs if not isinstance(size, int))
        for note in flow.notes:
            yield from (size for size in note.sizes if not isinstance(size, int))
        yield from flow.averaged

    def _first_layers(self) -> dict[int, tuple[int, str]]:
        """For every class its first producing id, and the layer of that id."""
        made = np.flatnonzero(self._roles == OUT)
        roots, first = np.unique(self._roots[made], return_index=True)
        result = {}
        for root, node in zip(roots.tolist(), made[first].tolist(), strict=True):
            tensor = self._keys[self._key_of[node]][0]
            result[root] = (node, owner(tensor) or tensor)
        return result

    def _slices(self, roots: Indices) -> tuple[Slice, ...]:
        ordered = np.sort(roots)
        nodes = np.concatenate([self._members[root] for root in ordered.tolist()])
        place = np.repeat(
            np.arange(len(ordered)), [len(self._members[r]) for r in ordered.tolist()]
        )
        keys = self._key_of[nodes]
        slices = []
        for key in np.unique(keys).tolist():
            mine = nodes[keys == key]
            units = place[keys == key]
            table = mine[np.lexsort((mine, units))] - self._starts[key]
            tensor, dim = self._keys[key]
            if not tensor:
                continue
            role = _ROLES[int(self._roles[mine[0]])]
            slices.append(Slice(tensor, dim, table.reshape(len(ordered), -1), role))
        return tuple(slices)

    def _kind(self, model: nn.Module, roots: Sequence[int], slices: tuple[Slice, ...]) -> Kind:
        if not self._head_roots.isdisjoint(roots):
            return "head"
        made = {owner(piece.tensor) for piece in slices if piece.role == "out"}
        used = {owner(piece.tensor) for piece in slices if piece.role == "in"}
        ends = [model.get_submodule(path) for path in (*made, *used)]
        linear = [module for module in ends if isinstance(module, nn.Linear)]
        inside = len(made) == len(used) == 1 and len(linear) == len(ends) and made != used
        inside = inside and all(piece.role != "affine" for piece in slices)
        return "ffn" if inside and linear[0].in_features == linear[1].out_features else "channel"

    def _frozen(self) -> Iterator[Frozen]:
        counted: dict[tuple[str, str], int] = defaultdict(int)
        listed: dict[str, set[int]] = defaultdict(set)
        for key, nodes in self._flow.owned.items():
            layer = owner(key[0]) or key[0]
            roots = self._roots[nodes[self._roles[nodes] == OUT]].tolist()
            for root in roots:
                if root in self._reasons and root not in listed[layer]:
                    counted[layer, self._reasons[root]] += 1
            listed[layer].update(roots)  # a bias has the ids of its weight
        for (layer, reason), size in counted.items():
            yield Frozen(layer, size, reason)

    # --- sizes ------------------------------------------------------------------------------

    def _dim(self, size: int | Indices) -> Dim:
        if isinstance(size, (int, np.integer)):
            return Dim(int(size))
        known = self._dims.get(id(size))
        if known is None:
            group = self._unit_group[self._roots[size[size >= 0]]]
            moving = group[group >= 0]
            numbers, counts = np.unique(moving, return_counts=True)
            per = {
                self._names[n]: c // self._sizes[self._names[n]]
                for n, c in zip(numbers.tolist(), counts.tolist(), strict=True)
            }
            known = Dim(len(size) - len(moving), per)
            self._dims[id(size)] = known
        return known

    def _all(self, sizes: Iterable[int | Indices]) -> tuple[Dim, ...]:
        return tuple(self._dim(size) for size in sizes)

    def _held(self, name: str, tensor: Tensor) -> tuple[Dim, ...]:
        owned: Mapping[tuple[str, int], Indices] = self._flow.owned
        sizes = enumerate(layout_of(tensor)[0])
        return self._all(owned.get((name, dim), size) for dim, size in sizes)

    def _positions(self) -> Iterator[tuple[str, tuple[Dim, ...]]]:
        for path, ids in self._flow.positions.items():
            if self._dim(ids).per_unit:
                yield f"{path}.{POSITIONS}", self._all([ids])
                yield f"{path}.{SOURCE}", self._all([len(ids)])

    def _attributes(self) -> tuple[Attribute, ...]:
        found: dict[tuple[str, str, tuple[str | int, ...]], Attribute] = {}
        for note in sorted(self._flow.notes, key=lambda note: note.guessed):
            dims = self._all(note.sizes)
            if any(dim.per_unit for dim in dims):
                key = (note.module, note.name, note.keys)
                attribute = Attribute(*key[:2], dims, note.scalar, note.guessed, note.keys)
                found.setdefault(key, attribute)
        return tuple(found.values())
