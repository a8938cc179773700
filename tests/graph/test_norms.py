"""Normalization layers follow their channels, and normalize over the kept ones."""

from __future__ import annotations

import pytest
import torch
from models.cutting import gap, random_keep
from models.through import units_of
from torch import Tensor, nn

from autoprune.graph import PruningGraph, trace


def settle(model: nn.Module) -> nn.Module:
    """Statistics and affine values that are not those of a new layer."""
    torch.manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def checked(norm: nn.Module, *, images: bool) -> PruningGraph:
    make = (lambda i, o: nn.Conv2d(i, o, 1)) if images else nn.Linear
    model = settle(nn.Sequential(make(6, 8), norm, make(8, 3)))
    x = torch.randn(4, 6, 5, 5) if images else torch.randn(4, 6)
    graph = trace(model.eval(), x)
    for train in (False, True):
        if graph.groups:
            assert gap(model, graph, random_keep(graph, 2), x, train=train) < 1e-9
    return graph


@pytest.mark.parametrize(
    ("norm", "units"),
    [
        (nn.BatchNorm2d(8), 8),
        (nn.BatchNorm2d(8, affine=False), 8),
        (nn.BatchNorm2d(8, track_running_stats=False), 8),
        (nn.InstanceNorm2d(8, affine=True), 8),
        (nn.GroupNorm(2, 8), 4),
        (nn.GroupNorm(8, 8), 8),
    ],
    ids=["batch", "no affine", "no running statistics", "instance", "group", "each alone"],
)
def test_norms_of_images(norm: nn.Module, units: int) -> None:
    assert units_of(checked(norm, images=True), "0") == units


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8), nn.BatchNorm1d(8)]
)
def test_norms_of_features(norm: nn.Module) -> None:
    graph = checked(norm, images=False)
    assert units_of(graph, "0") == 8
    affine = {s.tensor for s in graph.group("0").slices if s.role == "affine"}
    assert "1.weight" in affine


def test_a_norm_written_out_by_hand_is_one() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            centered = x - x.mean(-1, keepdim=True)
            return self.scale * centered * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)

    assert units_of(checked(ByHand(), images=False), "0") == 8


@pytest.mark.parametrize("count", [8, 2])
def test_the_number_of_groups_may_be_an_attribute(count: int) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = count

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.group_norm(x, self.count)

    graph = checked(Grouped(), images=True)
    assert units_of(graph, "0") == (8 if count == 8 else 4)
    assert [a.name for a in graph.attributes if a.module == "1"] == ["count"] * (count == 8)


def test_the_length_of_features_is_a_norm() -> None:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(x, dim=-1)

    assert units_of(checked(Unit(), images=False), "0") == 8


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_parametrized_weights_carry_the_ids_of_their_factors(name: str) -> None:
    layer = getattr(nn.utils.parametrizations, name)(nn.Linear(6, 8))
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Linear(8, 3)).eval()
    graph = trace(model, torch.randn(4, 6))
    assert units_of(graph, "0") == 8
    assert gap(model, graph, random_keep(graph, 0), torch.randn(4, 6), train=False) < 1e-9
