from __future__ import annotations

import copy

import pytest
import torch
from models.zoo import ZOO, settled
from torch import nn

from autoprune.errors import GraphError, UsageError
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.importance import accumulate_gradients
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


def squared(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def two_layers() -> nn.Sequential:
    """y = Σ v_i w_i x with w = (1, 2, 3), v = (3, 1, 2): 11 x."""
    net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        net[1].weight.copy_(torch.tensor([[3.0, 1.0, 2.0]]))
    return net


def test_importances_by_gradients_prune_with_gradients() -> None:
    """For x = 1, y = 10 the slope is 2: |w g| + |v g| = 4 |w v|, which is (12, 8, 24)."""
    net, batches = two_layers(), [(torch.ones(1, 1), torch.full((1, 1), 10.0))]
    gradients = accumulate_gradients(net, squared, batches)
    assert gradients["0.weight"].tolist() == [[6.0], [2.0], [4.0]]
    x = torch.zeros(1, 1)
    small = prune_model(net, x, 0.3, importance="taylor", gradients=gradients)
    assert small[0].weight.tolist() == [[1.0], [3.0]]  # the largest norms are 2 and 3
    small = prune_model(net, x, 0.3, importance="movement", gradients=gradients)
    assert small[0].weight.tolist() == [[1.0], [2.0]]  # -4 w v: the most negative leaves
    compiled = torch.compile(two_layers(), backend="eager")
    assert accumulate_gradients(compiled, squared, batches).keys() == gradients.keys()


def test_patterns_follow_the_gradients() -> None:
    net, batches = two_layers(), [(torch.ones(1, 1), torch.full((1, 1), 10.0))]
    gradients = accumulate_gradients(net, squared, batches)
    patterns = {"1.weight": "0.3"}
    small = prune_model(
        net, torch.zeros(1, 1), 0.0, importance="taylor", gradients=gradients, patterns=patterns
    )
    assert small[1].weight.tolist() == [[3.0, 0.0, 2.0]]


@pytest.mark.parametrize("score", ["magnitude", "lamp", torch.abs])
def test_one_sparsity_is_spread_over_all_weights(score) -> None:
    """Of 1, 2, 3 and 3, 1, 2 the three smallest elements are 1, 1 and the first 2."""
    net, x = two_layers(), torch.zeros(1, 1)
    small = prune_model(net, x, 0.0, patterns="0.5", pattern_score=score)
    assert small[0].weight.tolist() == [[0.0], [0.0], [3.0]]
    assert small[1].weight.tolist() == [[3.0, 0.0, 2.0]]
    each = prune_model(net, x, 0.0, patterns="0.5")
    assert each[1].weight.tolist() == [[3.0, 0.0, 0.0]]


def test_a_score_of_ones_own_spreads_it_differently() -> None:
    net, x = two_layers(), torch.zeros(1, 1)

    def by_inputs(weight: torch.Tensor) -> torch.Tensor:
        return weight.abs() * weight.shape[1]  # 1, 2, 3 and 9, 3, 6

    small = prune_model(net, x, 0.0, patterns="0.3", pattern_score=by_inputs)
    assert small[0].weight.tolist() == [[0.0], [0.0], [3.0]]
    assert small[1].weight.tolist() == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize("patterns", [None, "2:4", {"0.weight": "0.5"}])
def test_only_one_sparsity_can_be_spread(patterns) -> None:
    net, x = two_layers(), torch.zeros(1, 1)
    with pytest.raises(UsageError, match=r"^pattern_score spreads one sparsity, such as patterns="):
        prune_model(net, x, 0.0, patterns=patterns, pattern_score="lamp")
    with pytest.raises(
        UsageError, match=r"must be one of lamp, magnitude, or a function, got 'l1'"
    ):
        prune_model(net, x, 0.0, patterns="0.5", pattern_score="l1")


def test_gradients_that_are_missing_or_of_another_model_are_refused() -> None:
    net, x = two_layers(), torch.zeros(1, 1)
    with pytest.raises(UsageError, match=r"needs gradients · get them with autoprune\.accumulate"):
        prune_model(net, x, 0.3, importance="taylor")
    for other in ({"9.weight": torch.zeros(3, 1)}, {"0.weight": torch.zeros(4, 1)}):
        with pytest.raises(UsageError, match=r"must be of a parameter of this model"):
            prune_model(net, x, 0.3, importance="taylor", gradients=other)
