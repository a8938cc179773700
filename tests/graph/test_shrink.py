from __future__ import annotations

import copy

import numpy as np
import pytest
from models.cutting import random_keep
from models.zoo import ZOO
from models.zoo_attention import ViT
from models.zoo_hard import HARD

from autoprune.errors import GraphError
from autoprune.graph import Dim, PruningGraph, trace
from autoprune.pruning.surgery import prune

NAMES = ["resnet18", "resnet20_padded", "googlenet", "mobilenet_v3", "convnext", "unet", "audio"]


def sized(graph: PruningGraph, dims: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(dim.size(graph.sizes()) for dim in dims)


@pytest.mark.parametrize("name", NAMES)
def test_the_shrunk_graph_is_the_graph_of_the_smaller_model(name: str) -> None:
    build, draw = ZOO[name]
    model, x = build(), draw(1)
    graph = trace(model, x)
    shrunk = prune(model, graph, random_keep(graph, 1))
    fresh = trace(model, x)
    assert shrunk.sizes() == fresh.sizes()
    for mine, theirs in zip(shrunk.groups, fresh.groups, strict=True):
        for a, b in zip(mine.slices, theirs.slices, strict=True):
            assert (a.tensor, a.dim, a.role) == (b.tensor, b.dim, b.role)
            np.testing.assert_array_equal(a.indices, b.indices)
    assert [sized(shrunk, op.macs) for op in shrunk.ops] == [
        sized(fresh, o.macs) for o in fresh.ops
    ]
    assert [sized(shrunk, t.dims) for t in shrunk.tensors] == [
        sized(fresh, t.dims) for t in fresh.tensors
    ]
    assert [t.storage for t in shrunk.tensors] == [t.storage for t in fresh.tensors]


SLOW = {"densenet121", "resnet56_padded", "resnet50", "by_hand"}


@pytest.mark.parametrize("name", sorted({*ZOO, *HARD} - SLOW))
def test_sizes_are_those_of_the_tensors(name: str) -> None:
    build, draw = {**ZOO, **HARD}[name]
    model, x = build(), draw(1)
    graph = trace(model, x)
    shrunk = prune(model, graph, random_keep(graph, 2))
    for parameter_name, parameter in model.named_parameters():
        assert sized(shrunk, shrunk.parameters[parameter_name]) == tuple(parameter.shape)
    for buffer_name, buffer in model.named_buffers():
        assert sized(shrunk, shrunk.buffers[buffer_name]) == tuple(buffer.shape)
    for group in shrunk.groups:
        for piece in group.slices:
            held = {**dict(model.named_parameters()), **dict(model.named_buffers())}[piece.tensor]
            assert piece.indices.max() < held.shape[piece.dim]


def test_cutting_twice_is_cutting_once() -> None:
    build, draw = ZOO["mobilenet_v2"]
    graph = trace(build(), draw(1))
    first = {g.name: list(range(0, g.size, 2)) for g in graph.groups}
    then = {g.name: list(range(len(first[g.name]) // 2)) for g in graph.groups}
    both = {name: [first[name][u] for u in then[name]] for name in first}
    twice, once = graph.shrink(first).shrink(then), graph.shrink(both)
    for a, b in zip(twice.groups, once.groups, strict=True):
        for p, q in zip(a.slices, b.slices, strict=True):
            np.testing.assert_array_equal(p.indices, q.indices)


def test_freezing_a_group_keeps_every_size() -> None:
    graph = trace(ViT("plain"), ZOO["resnet18"][1](1)[:, :, :32, :32])
    name = graph.groups[0].name
    frozen = graph.freeze({name: "asked"})
    assert name not in frozen.sizes()
    assert [sized(frozen, t.dims) for t in frozen.tensors] == [
        sized(graph, t.dims) for t in graph.tensors
    ]
    assert frozen.frozen[-1].reason == "asked"


@pytest.mark.parametrize("keep", [{"0": []}, {"0": [8]}, {"0": [-1]}, {"0": [1, 1]}])
def test_units_that_do_not_exist_are_refused(keep: dict[str, list[int]]) -> None:
    build, draw = ZOO["mlp"]
    graph = trace(build(), draw(1))
    name = graph.groups[0].name
    wrong = {name: [32 if unit == 8 else unit for unit in keep["0"]]}
    with pytest.raises(GraphError, match="must hold 1 to 32 different units"):
        graph.shrink(wrong)


def test_an_unknown_group_names_the_nearest() -> None:
    build, draw = ZOO["resnet18"]
    graph = trace(build(), draw(1))
    with pytest.raises(GraphError, match=r"the nearest is 'layer1\.0\.conv1'"):
        graph.group("layer1.0.conv")
    assert copy.copy(graph).sizes() == graph.sizes()
