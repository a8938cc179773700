"""From ids to groups: names, kinds, slices, sizes and attributes, all by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import Dim, Frozen, PruningGraph, trace

VECTOR = torch.zeros(1, 4)


def graph_of(*layers: nn.Module, x: Tensor = VECTOR) -> PruningGraph:
    return trace(nn.Sequential(*layers), x)


def test_a_group_is_what_one_layer_makes_and_the_next_reads() -> None:
    graph = graph_of(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    (group,) = graph.groups
    assert (group.name, group.kind, group.size) == ("0", "channel", 6)
    found = {(s.tensor, s.dim, s.role): s.indices.ravel().tolist() for s in group.slices}
    assert found == {
        ("0.weight", 0, "out"): [0, 1, 2, 3, 4, 5],
        ("0.bias", 0, "out"): [0, 1, 2, 3, 4, 5],
        ("2.weight", 1, "in"): [0, 1, 2, 3, 4, 5],
    }


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ((nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)), "ffn"),
        ((nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), "channel"),  # another width behind it
        ((nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)), "channel"),
    ],
)
def test_a_hidden_layer_between_two_linear_ones_alone_is_a_feed_forward(
    layers: tuple[nn.Module, ...], kind: str
) -> None:
    assert graph_of(*layers).groups[0].kind == kind


def test_units_of_different_meaning_in_one_layer_are_groups_of_their_own() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.a(x).chunk(2, 1)
            return self.b(left) + self.c(right.relu())

    graph = trace(Halves(), VECTOR)
    assert [(group.name, group.size) for group in graph.groups] == [("a", 4)]  # pruned as pairs
    assert graph.group("a").slices[0].indices.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_second_group_of_a_layer_is_numbered() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.sizes = nn.Linear(4, 12), (4, 8)
            self.b, self.c = nn.Linear(4, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.a(x).split(list(self.sizes), 1)
            return self.b(left) + self.c(right)

    graph = trace(Uneven(), VECTOR)
    assert graph.sizes() == {"a": 4, "a#2": 8}
    assert graph.parameters["a.weight"] == (Dim(0, {"a": 1, "a#2": 1}), Dim(4))
    held = {(a.keys, a.dims) for a in graph.attributes if a.name == "sizes"}
    assert held == {((0,), (Dim(0, {"a": 1}),)), ((1,), (Dim(0, {"a#2": 1}),))}


def test_channels_that_are_all_one_unit_are_not_prunable() -> None:
    x = torch.zeros(1, 4, 2, 2)
    # the same channel of both groups, and both channels of each of three groups: all six together
    layers = [nn.Conv2d(6, 6, 1, groups=groups) for groups in (2, 3)]
    graph = graph_of(nn.Conv2d(4, 6, 1), *layers, nn.Conv2d(6, 2, 1), x=x)
    assert graph.sizes() == {"0": 3}
    assert Frozen("1", 6, "its channels can only be pruned all together") in graph.frozen


def test_outputs_are_frozen_once_a_layer_with_the_reason() -> None:
    graph = graph_of(nn.Linear(4, 6), nn.Linear(6, 2))
    assert graph.frozen == (Frozen("1", 2, "model output"),)


def test_every_output_of_a_layer_with_several_weights_is_listed() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.gate = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(6, 3))
            self.out, self.bias = nn.Parameter(torch.ones(6, 5)), nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = (x @ self.inside).relu()
            return (y @ self.gate).cumsum(-1), torch.addmm(self.bias, y, self.out)

    graph = trace(nn.Sequential(Gated()), VECTOR)
    assert graph.sizes() == {"0": 6}
    assert graph.frozen == (
        Frozen("0", 3, "cumsum over channels in 0"),
        Frozen("0", 5, "model output"),
    )


def test_sizes_of_tensors_parameters_and_products_follow_the_units() -> None:
    x = torch.zeros(1, 1, 4, 4)
    graph = graph_of(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 2), x=x)
    units = Dim(0, {"0": 1})
    assert graph.parameters["0.weight"] == (units, Dim(1), Dim(3), Dim(3))
    assert graph.parameters["3.weight"] == (Dim(2), Dim(0, {"0": 4}))
    assert graph.buffers["1.running_mean"] == (units,)
    assert graph.buffers["1.num_batches_tracked"] == ()
    made = [graph.tensors[op.outputs[0]].dims for op in graph.ops if op.macs]
    assert made == [(Dim(1), units, Dim(2), Dim(2)), (Dim(1), Dim(2))]
    macs = [[dim.size({"0": 5}) for dim in op.macs] for op in graph.ops if op.macs]
    assert [int(torch.tensor(each).prod()) for each in macs] == [4 * 5 * 9, 20 * 2]
    assert graph.itemsizes["0.weight"] == 4
    assert graph.itemsizes["1.num_batches_tracked"] == 8


def test_attributes_of_layers_hold_the_sizes() -> None:
    x = torch.zeros(1, 1, 4, 4)
    graph = graph_of(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 2), x=x)
    found = {(it.module, it.name): it.dims for it in graph.attributes if not it.guessed}
    assert found == {
        ("0", "out_channels"): (Dim(0, {"0": 1}),),
        ("1", "num_features"): (Dim(0, {"0": 1}),),
        ("3", "in_features"): (Dim(0, {"0": 4}),),
    }


def test_means_over_units_are_told() -> None:
    plain = (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    assert not graph_of(*plain).averages
    assert graph_of(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).averages
