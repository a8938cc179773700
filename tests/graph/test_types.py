from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from models.cutting import random_keep
from models.zoo import ZOO
from models.zoo_attention import ViT
from models.zoo_hard import HARD

from autoprune.architecture import Architecture
from autoprune.errors import GraphError
from autoprune.graph import (
    Attribute,
    Block,
    Dim,
    Frozen,
    Group,
    Op,
    PruningGraph,
    Slice,
    TensorInfo,
    trace,
)
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
        assert sized(shrunk, shrunk.dims(buffer_name)) == tuple(buffer.shape)
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


def units(tensor: str, dim: int, count: int, role: str = "out", width: int = 1) -> Slice:
    """Unit u owns `width` neighbors."""
    return Slice(tensor, dim, np.arange(count * width).reshape(count, width), role)  # type: ignore[arg-type]


def by_hand() -> PruningGraph:
    """x + f(x) with f = b(a(x)), then c of it; `a` has 4 units, `c` 3 with two rows each."""
    block = Block("f", "residual", 2, frozenset({0, 1, 2}), 0, (("f", None),), ("f.a", "f.b"), ())
    return PruningGraph(
        groups=(
            Group("f.a", "channel", 4, (units("f.a", 0, 4), units("f.b", 1, 4, "in"))),
            Group("c", "channel", 3, (units("c", 0, 3, width=2),)),
        ),
        frozen=(Frozen("f.b", 5, "model output"),),
        ops=(
            Op("mm", "f", (0,), (1,), ("f.a",), (Dim(5), Dim(0, {"f.a": 1}))),
            Op("mm", "f", (1,), (2,), ("f.b",), (Dim(5), Dim(0, {"f.a": 1}))),
            Op("add", "", (0, 2), (3,), ()),
            Op("mm", "", (3,), (4,), ("c",), (Dim(5), Dim(0, {"c": 2}))),
        ),
        tensors=tuple(
            TensorInfo((dim,), 4, place)
            for place, dim in enumerate(
                (Dim(5), Dim(0, {"f.a": 1}), Dim(5), Dim(5), Dim(0, {"c": 2}))
            )
        ),
        parameters={
            "f.a": (Dim(0, {"f.a": 1}), Dim(5)),
            "f.b": (Dim(5), Dim(0, {"f.a": 1})),
            "c": (Dim(0, {"c": 2}), Dim(5)),
        },
        buffers={},
        attributes=(
            Attribute("f", "width", (Dim(0, {"f.a": 1}),)),
            Attribute("fc", "n", (Dim(2),)),
        ),
        inputs=(0,),
        outputs=(4,),
        blocks=(block,),
    )


def test_a_dimension_is_linear_in_the_widths() -> None:
    dim = Dim(3, {"a": 2, "b": 1})
    assert dim.size({"a": 5, "b": 7, "other": 9}) == 3 + 2 * 5 + 7
    assert dim.freeze({"a": 5}) == Dim(13, {"b": 1})
    assert dim.freeze({"other": 5}) is dim
    assert hash(Dim(3, {"b": 1, "a": 2})) == hash(dim)
    with pytest.raises(KeyError):
        dim.size({"a": 5})


def test_columns_are_units_and_a_presence_for_each_block() -> None:
    graph = by_hand()
    assert graph.sizes() == {"f.a": 4, "c": 3}
    assert graph.columns() == {"f.a": 4, "c": 3, "block:f": 1}
    assert graph.counts(Architecture({"c": 2})) == {"f.a": 4, "c": 2, "block:f": 1}
    assert graph.counts(Architecture({"f.a": 1}, ["f"])) == {"f.a": 1, "c": 3, "block:f": 0}


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (
            Architecture({"f.b": 1}),
            "group must be one of the model's 2 groups, got 'f.b' · the nearest is 'f.a'",
        ),
        (Architecture({"c": 4}), "widths['c'] must be from 1 to 3 units, got 4"),
        (
            Architecture(dropped=["g"]),
            "block must be one of the model's 1 blocks, got 'g' · the nearest is 'f'",
        ),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(
    architecture: Architecture, says: str
) -> None:
    with pytest.raises(GraphError) as caught:
        by_hand().counts(architecture)
    assert str(caught.value) == says


def test_a_model_without_blocks_says_so() -> None:
    with pytest.raises(GraphError) as caught:
        dataclasses.replace(by_hand(), blocks=()).block("f")
    assert str(caught.value) == (
        "block must be one of the model's 0 blocks, got 'f' · this model has no blocks"
    )


def test_what_lies_in_a_block_is_there_with_it() -> None:
    graph = by_hand()
    presence = Dim(0, {"block:f": 1})
    assert graph.present() == ((presence,), (presence,), (presence,), ())
    assert graph.presence_of("f.a") == (presence,)
    assert graph.presence_of("c") == ()
    assert graph.lost(["f"]) == frozenset({"f.a"})
    assert graph.lost([]) == frozenset()


def test_without_a_block_what_follows_reads_its_input() -> None:
    found = by_hand().without(["f"])
    assert found.sizes() == {"c": 3}
    assert [(op.name, op.inputs, op.parameters) for op in found.ops] == [("mm", (0,), ("c",))]
    assert list(found.parameters) == ["c"]
    assert [it.module for it in found.attributes] == ["fc"]  # it only begins alike
    assert (found.blocks, found.dropped) == ((), frozenset({"f"}))
    graph = by_hand()
    assert graph.without([]) is graph


def test_what_is_removed_is_told_by_tensor_and_dimension() -> None:
    found = by_hand().removed({"f.a": [0, 3], "c": [1]})
    assert {key: it.tolist() for key, it in found.items()} == {
        ("f.a", 0): [1, 2],
        ("f.b", 1): [1, 2],
        ("c", 0): [0, 1, 4, 5],
    }
    assert by_hand().removed({"c": [2, 0, 1]}) == {}


def test_kept_units_are_ascending_and_renumbered() -> None:
    assert by_hand().checked({"c": [2, 0]})["c"].tolist() == [0, 2]
    shrunk = by_hand().shrink({"c": [0, 2]})
    assert shrunk.sizes() == {"f.a": 4, "c": 2}
    assert shrunk.group("c").slices[0].indices.tolist() == [[0, 1], [2, 3]]
    assert shrunk.group("f.a").slices[0].indices.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("units", [[], [3], [-1], [1, 1]])
def test_units_that_do_not_exist_are_refused(units: list[int]) -> None:
    with pytest.raises(GraphError) as caught:
        by_hand().shrink({"c": units})
    assert str(caught.value) == (
        f"keep['c'] must hold 1 to 3 different units in [0, 2], got {units}"
    )


def test_a_frozen_group_has_its_size_everywhere() -> None:
    found = by_hand().freeze({"f.a": "asked"})
    assert found.sizes() == {"c": 3}
    assert found.frozen[-1] == Frozen("f.a", 4, "asked")
    assert found.parameters["f.b"] == (Dim(5), Dim(4))
    assert found.ops[0].macs == (Dim(5), Dim(4))
    assert found.tensors[1].dims == (Dim(4),)
    assert found.attributes[0].dims == (Dim(4),)
    assert found.parameters["c"] == by_hand().parameters["c"]


def test_a_block_can_be_named_and_moved() -> None:
    (block,) = by_hand().blocks
    moved = block.called("other").moved({2: 7, 1: 5})
    assert (moved.name, moved.addition, moved.calls) == ("other", 7, frozenset({5, 7}))
    assert (moved.column, moved.presence) == ("block:other", Dim(0, {"block:other": 1}))
