from __future__ import annotations

import copy

import pytest
import torch
from models.zoo import ZOO, settled
from models.zoo_hard import HARD
from torch import Tensor, nn

from autoprune.errors import GraphError, UsageError
from autoprune.graph import trace
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.one_shot import groups, prunable, prune_model, traced, verify


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


def test_a_size_held_by_hand_freezes_its_group_only() -> None:
    build, draw = HARD["by_hand"]
    model, x = build(), draw(2)
    graph = prunable(model, x)
    assert graph.sizes() == {"a": 8}
    (fault,) = [f for f in graph.frozen if f.name == "b"]
    assert fault.reason.startswith("the smaller model does not run: RuntimeError: shape '[-1, 12]'")
    assert fault.size == 12
    small = prune_model(model, x, 0.5)
    assert (small.a.out_channels, small.b.out_channels) == (4, 12)


def test_a_miswired_group_is_found_by_its_outputs() -> None:
    """A scale that is not registered: the trace sees a constant, and has to keep what it meets."""

    class Sneaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.b(torch.relu(self.a(x))))
            scale = x.shape[1] / 4  # a number that depends on the width
            return self.c(x * scale)

    torch.manual_seed(0)
    model, x = Sneaky(), torch.randn(5, 4)
    traced = trace(model, x)
    assert traced.sizes() == {"a": 8, "b": 8}
    graph = verify(model, traced, x)
    assert graph.sizes() == {"a": 8}
    assert graph.frozen[-1].reason == "the smaller model differs from the masked one"


def test_a_transformer_of_torch_keeps_its_width_and_loses_hidden_units() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model, x = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), torch.randn(2, 5, 6)
    graph = prunable(model, x)
    assert graph.sizes() == {"1.linear1": 16}
    assert graph.groups[0].kind == "ffn"
    small = prune_model(model, x, 0.5)
    assert small[1].linear1.out_features == 8
    assert small(x).shape == (2, 5, 3)


def test_a_last_layer_of_zeros_does_not_hide_a_fault() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.b.bias)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.b(x * x.shape[1])

    graph = prunable(Scaled(), torch.randn(3, 4))
    assert [(f.name, f.reason) for f in graph.frozen if f.name == "a"] == [
        ("a", "the smaller model differs from the masked one")
    ]


def test_verification_leaves_the_model_as_it_was() -> None:
    build, draw = ZOO["mobilenet_v2"]
    model, x = settled(build()).train(), draw(2)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    prunable(model, x)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


class Windowed(nn.Module):
    """Attention whose width and longest sequence are the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.width = self.max_len = self.num_classes = 64
        self.heads = 4
        self.qkv, self.out = nn.Linear(6, 3 * 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -self.max_len :]
        n, length = x.shape[:2]
        parts = self.qkv(x).view(n, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        x = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
        return self.out(x.transpose(1, 2).reshape(n, length, self.width))


def test_a_number_that_only_equals_a_width_stays() -> None:
    torch.manual_seed(0)
    model = Windowed().eval()
    small = prune_model(model, torch.randn(2, 5, 6), 0.5)
    assert small.qkv.out_features == 96
    assert (small.width, small.heads) == (32, 2)
    assert (small.max_len, small.num_classes) == (64, 64)
    assert small(torch.randn(1, 70, 6)).shape == (1, 64, 3)


def test_a_number_that_must_not_follow_a_width_freezes_nothing() -> None:
    class Framed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = self.frames = 16
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x[:, : self.frames]))
            return self.b(x.reshape(-1, self.hidden))

    small = prune_model(Framed(), torch.randn(2, 16, 4), 0.5)
    assert (small.a.out_features, small.hidden, small.frames) == (8, 8, 16)


class Noisy(nn.Module):
    """Noise of a size held by hand, only in training, which one more layer cannot do at all."""

    def __init__(self, *, trains: bool = True) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
        self.head, self.trains = nn.Linear(8, 2), trains

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        if self.training:
            assert self.trains
            x = x + 0.1 * torch.randn(x.shape[0], 16, 1, 1)
        return self.head(self.b(x).mean((2, 3)))


def test_a_size_held_only_in_training_freezes_its_group() -> None:
    model, x = Noisy().eval(), torch.randn(1, 3, 4, 4)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    graph = prunable(model, x)
    assert graph.sizes() == {"b": 8}
    (fault,) = [f for f in graph.frozen if f.name == "a"]
    assert fault.reason.startswith("the smaller model does not run in training mode: RuntimeError")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    prune_model(model, x, 0.5).train()(x.repeat(2, 1, 1, 1))


def test_a_model_that_does_not_train_on_its_example_is_judged_by_evaluation() -> None:
    assert prunable(Noisy(trains=False), torch.randn(1, 3, 4, 4)).sizes() == {"a": 16, "b": 8}


def test_a_model_that_is_built_again_is_mended_as_the_pruned_one_was() -> None:
    model, example = Windowed().eval(), torch.randn(2, 5, 6)
    graph = traced(model, example)
    assert {a.name for a in graph.attributes if a.guessed} == {
        a.name for a in prunable(model, example).attributes if a.guessed
    }
    assert "max_len" not in {a.name for a in graph.attributes}
