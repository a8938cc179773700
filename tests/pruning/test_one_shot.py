from __future__ import annotations

import copy

import pytest
import torch
from models.zoo import ZOO, settled
from torch import nn

from autoprune.errors import GraphError, UsageError
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.one_shot import groups, prune_model


def test_half_of_every_group_leaves_and_the_given_model_stays() -> None:
    build, draw = ZOO["resnet20_padded"]
    model, x = settled(build()), draw(2)
    before = copy.deepcopy(model.state_dict())
    small = prune_model(model, x, 0.5)
    assert {g.name: g.size for g in groups(small, x)} == {
        g.name: g.size // 2 for g in groups(model, x)
    }
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert small(x).shape == (2, 10)


def test_the_weakest_units_leave_first() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.1, 0.1], [0.0, 2.0], [0.5, 0.5]]))
        net[0].bias.zero_()
    small = prune_model(net, torch.zeros(1, 2), 0.5)
    assert small[0].weight.tolist() == [[3.0, 0.0], [0.0, 2.0]]


def test_a_ratio_for_each_named_group_and_multiples() -> None:
    build, draw = ZOO["vgg11_bn"]
    x = draw(1)
    small = prune_model(build(), x, {"features.0": 0.3}, round_to=4)
    assert small.features[0].out_channels == 12
    assert small.features[4].out_channels == 32
    ignoring = prune_model(build(), x, 0.5, ignored_layers=["features.0"])
    assert (ignoring.features[0].out_channels, ignoring.features[4].out_channels) == (16, 16)


def test_repair_brings_the_outputs_nearer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    x = torch.randn(400, 6)
    calibration = calibrate(net, [(x, torch.zeros(400))])
    plain = prune_model(net, x[:1], 0.5)
    repaired = prune_model(net, x[:1], 0.5, calibration=calibration)
    fresh = torch.randn(400, 6)
    wanted = net(fresh)

    def error(model: nn.Module) -> float:
        return float((model(fresh) - wanted).square().mean().detach())

    assert error(repaired) < 0.5 * error(plain)
    named = prune_model(net, x[:1], 0.5, calibration=calibration, importance="obs")
    by_norm = prune_model(net, x[:1], 0.5, calibration=calibration, importance="l2")
    assert torch.equal(named(fresh), repaired(fresh))  # the default with a calibration
    assert not torch.equal(by_norm(fresh), repaired(fresh))


def test_repair_predicts_batch_statistics_and_a_refit_sees_what_came_before() -> None:
    torch.manual_seed(0)
    stem = [nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    rest = [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*stem, *rest, *head)
    x = torch.randn(64, 2, 10, 10)
    for _ in range(40):
        net(x)  # statistics
    net.eval()
    calibration = calibrate(net, [x])
    mended = prune_model(net, x[:1], 0.5, calibration=calibration)
    assert not torch.equal(mended[4].running_var, net[4].running_var[: len(mended[4].running_var)])
    fitted = prune_model(net, x[:1], 0.5, calibration=calibration, refit=[x[:32], x[32:]])
    fresh = torch.randn(256, 2, 10, 10)
    wanted = net(fresh)
    errors = [float((m(fresh) - wanted).square().mean().detach()) for m in (mended, fitted)]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize(
    ("ratio", "error", "text"),
    [
        (1.0, UsageError, r"ratio must lie in \[0, 1\), got 1\.0"),
        (-0.1, UsageError, r"ratio must lie in \[0, 1\)"),
        ({"fc9": 0.5}, GraphError, r"got 'fc9' · the nearest is 'fc1'"),
    ],
)
def test_ratios_that_do_not_fit_are_refused(ratio, error: type[Exception], text: str) -> None:
    build, draw = ZOO["mlp"]
    with pytest.raises(error, match=text):
        prune_model(build(), draw(1), ratio)
