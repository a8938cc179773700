"""Graphs of linear layers, by hand."""

from __future__ import annotations

import itertools

from autoprune.graph import Dim, Group, Op, PruningGraph, TensorInfo


def chain(widths: tuple[int, ...]) -> PruningGraph:
    """Linear layers 32 → widths → 10, a relu and a view after each."""
    dims = [Dim(32), *(Dim(0, {f"layer{n}": 1}) for n in range(len(widths))), Dim(10)]
    tensors, ops = [TensorInfo((Dim(1), dims[0]), 4, 0)], []
    for n, (source, target) in enumerate(itertools.pairwise(dims)):
        place, shape = len(tensors), (Dim(1), target)
        storages = (3 * n + 1, 3 * n + 2, 3 * n + 2)
        tensors += [TensorInfo(shape, 4, storage) for storage in storages]
        ops += [
            Op("aten.addmm", f"layer{n}", (place - 1,), (place,), (), (Dim(1), source, target)),
            Op("aten.relu", f"act{n}", (place,), (place + 1,), ()),
            Op("aten.view", "", (place + 1,), (place + 2,), ()),
        ]
    groups = tuple(Group(f"layer{n}", "channel", width, ()) for n, width in enumerate(widths))
    return PruningGraph(groups, (), tuple(ops), tuple(tensors), {}, {})
