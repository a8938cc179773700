"""Layers with a norm against the same net with plain weights, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.cutting import gap
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from autoprune.graph import trace
from autoprune.graph.replica import replica
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import repair
from autoprune.pruning.computed_weights import (
    computed_weights,
    plain_weights,
)
from autoprune.pruning.one_shot import prune_model
from autoprune.pruning.surgery import prune

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
Wrap = Callable[[nn.Module], nn.Module]
NORMS: dict[str, Wrap] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
}


class Net(nn.Module):
    """Two layers that may have a norm, of which one is transposed."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 12, 3)
        self.middle = wrap(nn.Conv2d(12, 8, 3))
        self.wider = wrap(nn.ConvTranspose2d(8, 6, 2, stride=2))
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.middle(torch.relu(self.first(x))))
        return self.last(torch.relu(self.wider(x)))


def settled(wrap: Wrap) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net, x = Net(wrap), torch.randn(16, 2, 8, 8)
    for _ in range(20):
        net.train()(x)
    return net.eval(), x


def without_norms(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """The same weights as plain parameters."""
    net(x)
    plain = Net(lambda layer: layer)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            path, _, leaf = name.rpartition(".")
            parameter.copy_(getattr(net.get_submodule(path), leaf))
    return plain.eval()


@pytest.mark.parametrize("options", ["cut", "repaired", "refit"])
@pytest.mark.parametrize("name", NORMS)
def test_a_pruned_net_with_norms_is_that_with_plain_weights(name: str, options: str) -> None:
    net, x = settled(NORMS[name])
    plain = without_norms(net, x)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    answers = []
    for model in (net, plain):
        given: dict[str, Any] = {}
        if options != "cut":
            given["calibration"] = calibrate(model, [x])
        if options == "refit":
            given["refit"] = [x]
        answers.append(prune_model(model, x, 0.4, **given).eval()(x))
    torch.testing.assert_close(answers[0], answers[1], atol=2e-5, rtol=1e-3)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_a_pruned_layer_has_its_weight_before_it_runs(name: str, repaired: bool) -> None:
    net, x = settled(NORMS[name])
    given: dict[str, Any] = {"calibration": calibrate(net, [x])} if repaired else {}
    small = prune_model(net, x, 0.5, **given).eval()
    before = [layer.weight.detach().clone() for layer in (small.middle, small.wider)]
    assert [tuple(weight.shape) for weight in before] == [(4, 6, 3, 3), (4, 3, 2, 2)]
    small(x)
    after = [layer.weight.detach() for layer in (small.middle, small.wider)]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


def test_a_length_is_made_smaller_by_what_its_direction_loses() -> None:
    layer = parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    net = nn.Sequential(nn.Linear(1, 2), layer)
    with torch.no_grad():
        layer.parametrizations.weight.original0.fill_(10.0)
        layer.parametrizations.weight.original1.copy_(torch.tensor([[3.0, 4.0]]))
    prune(net, trace(net, torch.zeros(1, 1)), {"0": [0]})
    assert layer.parametrizations.weight.original1.tolist() == [[3.0]]
    torch.testing.assert_close(layer.parametrizations.weight.original0, torch.tensor([[6.0]]))
    torch.testing.assert_close(layer.weight, torch.tensor([[6.0]]))


def test_training_gives_a_pruned_weight_its_spectral_norm_of_one_again() -> None:
    net, x = settled(parametrizations.spectral_norm)
    small = prune_model(net, x, 0.4)
    weight = small.middle.weight.flatten(1)
    assert torch.linalg.matrix_norm(weight, 2) < 0.95
    small.train()(x)
    torch.testing.assert_close(
        torch.linalg.matrix_norm(small.middle.weight.flatten(1), 2),
        torch.tensor(1.0),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_the_masked_net_is_the_pruned_one(name: str, train: bool) -> None:
    net, x = settled(NORMS[name])
    net, x = net.double(), x.double()
    with torch.no_grad():
        net(x)  # a hook's weight without a gradient can be copied
    graph = trace(net, x)
    keep = {group.name: range(1, group.size, 2) for group in graph.groups}
    assert gap(net, graph, {n: list(units) for n, units in keep.items()}, x, train=train) < 1e-6


def test_a_weight_that_is_set_inside_is_the_layers_afterwards() -> None:
    for wrap in NORMS.values():
        net, x = settled(wrap)
        key = next(iter(computed_weights(net)))
        wanted = torch.randn(8, 12, 3, 3)
        with torch.no_grad(), plain_weights(net):
            dict(net.named_parameters())[key].copy_(wanted)
            net(x)
            torch.testing.assert_close(net.middle.weight.data, wanted)
        net(x)
        torch.testing.assert_close(net.middle.weight.data, wanted, atol=1e-5, rtol=1e-4)


def test_outputs_of_length_zero_stay_zero() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2, bias=False))
    length = layer.parametrizations.weight.original0
    with torch.no_grad():
        length[0] = 0.0
        with plain_weights(layer):
            layer.parametrizations.weight.original1.add_(1.0)
    assert layer.weight[0].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(layer.weight).all()


def test_a_direction_that_loses_all_it_had_is_zero() -> None:
    layer = nn.utils.weight_norm(nn.Linear(2, 1, bias=False))
    net = nn.Sequential(nn.Linear(1, 2), layer)
    with torch.no_grad():
        layer.weight_v.copy_(torch.tensor([[0.0, 1.0]]))
    prune(net, trace(net, torch.zeros(1, 1)), {"0": [0]})
    assert net(torch.ones(1, 1)).item() == 0.0


class Times(nn.Module):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


class Plus(nn.Module):
    """An adapter of rank 1."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(n, 1)) for n in (outputs, inputs))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.a @ self.b.T


def by_hook(layer: nn.Linear, mask: torch.Tensor) -> None:
    torch_prune.custom_from_mask(layer, "weight", mask)


def by_parametrization(layer: nn.Linear, mask: torch.Tensor) -> None:
    parametrize.register_parametrization(layer, "weight", Times(mask))


MASKS = {"hook": by_hook, "parametrization": by_parametrization}


def masked_net(kind: str, mask: torch.Tensor) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    MASKS[kind](net[2], mask)
    return net, torch.relu(torch.randn(400, 4)) @ torch.randn(4, 8)


@pytest.mark.parametrize("importance", ["obs", "wanda"])
@pytest.mark.parametrize("kind", MASKS)
def test_units_that_a_mask_hides_go_first(kind: str, importance: str) -> None:
    mask = torch.ones(3, 12)
    mask[:, ::2] = 0.0
    net, x = masked_net(kind, mask)
    small = prune_model(net, x, 0.5, importance=importance, calibration=calibrate(net, [x]))
    torch.testing.assert_close(small(x), net(x))


@pytest.mark.parametrize("kind", MASKS)
def test_repair_changes_what_the_mask_leaves(kind: str) -> None:
    torch.manual_seed(1)
    mask = (torch.rand(3, 12) < 0.6).float()
    net, x = masked_net(kind, mask)
    graph, moments = trace(net, x), calibrate(net, [x])
    small = replica(net)
    keep = {"0": [0, 2, 3, 5, 8, 9, 11]}
    prune(small, graph, keep)
    repair(small, net, graph, keep, moments, ridge=1e-9)
    hidden = torch.relu(net[0](x)).double().detach()
    dense, fresh = net[2].weight.detach().double(), small[2].weight.detach().double()
    centered = hidden - hidden.mean(0)
    for row in range(3):
        left = [place for place, unit in enumerate(keep["0"]) if mask[row, unit]]
        units = [keep["0"][place] for place in left]
        wanted = torch.linalg.lstsq(centered[:, units], (centered @ dense[row])[:, None]).solution
        torch.testing.assert_close(fresh[row, left], wanted[:, 0], atol=1e-3, rtol=1e-3)
        assert fresh[row].count_nonzero() == len(left)


@pytest.mark.parametrize("kind", MASKS)
def test_a_refit_leaves_hidden_elements_hidden(kind: str) -> None:
    torch.manual_seed(1)
    mask = (torch.rand(3, 12) < 0.6).float()
    net, x = masked_net(kind, mask)
    given: dict[str, Any] = {"importance": "l2"}
    cut, refitted = (prune_model(net, x, 0.4, **given, **more) for more in ({}, {"refit": [x]}))
    assert torch.equal(refitted[2].weight == 0.0, cut[2].weight == 0.0)
    errors = [float((small(x) - net(x)).detach().square().mean()) for small in (cut, refitted)]
    assert errors[1] < 0.5 * errors[0]


def test_what_adds_is_no_mask() -> None:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", Plus(3, 4))
    assert computed_weights(layer) == {}
