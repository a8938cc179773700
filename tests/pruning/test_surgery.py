from __future__ import annotations

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.cutting import flat, gap, random_keep
from models.zoo import ZOO, CifarResNet, settled
from models.zoo_attention import ViT
from models.zoo_hard import HARD
from torch import Tensor, nn

from autoprune.errors import GraphError
from autoprune.graph import PruningGraph, trace
from autoprune.pruning.surgery import prune

ATTENTION = {
    f"vit_{kind}": (lambda kind=kind: ViT(kind), lambda n: torch.randn(n, 3, 32, 32))
    for kind in ("fused", "plain", "separate")
}
ALL = {**ZOO, **{k: v for k, v in HARD.items() if k != "by_hand"}, **ATTENTION}


@pytest.mark.parametrize("name", ALL)
def test_the_smaller_model_equals_the_masked_one(name: str) -> None:
    torch.manual_seed(0)
    build, draw = ALL[name]
    model, x = settled(build()), draw(3)
    graph = trace(model, x)
    assert graph.groups
    keep = random_keep(graph, 3)
    assert gap(model, graph, keep, x, train=False) < 1e-9
    assert gap(model, graph, keep, x, train=True) < 1e-9


@functools.cache
def traced(name: str) -> tuple[nn.Module, PruningGraph, Tensor]:
    torch.manual_seed(1)
    build, draw = {**ALL, "plain": PLAIN}[name]
    model, x = settled(build()), draw(2)
    return model, trace(model, x), x


@pytest.mark.parametrize("name", ["plain", "grouped", "gated", "vit_plain", "shufflenet_v2"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_choice_of_units_is_as_good(name: str, data: st.DataObject) -> None:
    model, graph, x = traced(name)
    keep = {
        g.name: sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=1)))
        for g in graph.groups
    }
    assert gap(model, graph, keep, x, train=False) < 1e-9


PLAIN = (
    lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(),
        nn.Linear(4 * 16, 3),
    ),
    lambda n: torch.randn(n, 3, 8, 8),
)  # fmt: skip


@pytest.mark.parametrize("name", ["resnet20_padded", "convnext", "grouped", "tied"])
def test_keeping_everything_changes_nothing(name: str) -> None:
    build, draw = ALL[name]
    model, x = settled(build()).eval(), draw(2)
    graph = trace(model, x)
    before, wanted = copy.deepcopy(model.state_dict()), flat(model(x))
    same = prune(model, graph, {g.name: range(g.size) for g in graph.groups})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(flat(model(x)), wanted)
    assert same.sizes() == graph.sizes()


@pytest.mark.parametrize("name", ["resnext", "mobilenet_v3", "shufflenet_v2", "vit_fused", "tied"])
def test_the_smaller_model_trains(name: str) -> None:
    torch.manual_seed(0)
    build, draw = ALL[name]
    model, x = build(), draw(4)
    graph = trace(model, x)
    prune(model, graph, random_keep(graph, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    flat(model.train()(x))
    loss = model(x).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    optimizer.step()
    assert torch.isfinite(model(x)).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["padded", "grouped", "vit_fused"])
def test_the_smaller_model_exports(name: str) -> None:
    build, draw = ALL["resnet20_padded" if name == "padded" else name]
    model, x = CifarResNet(8) if name == "padded" else build(), draw(1)
    graph = trace(settled(model).eval(), x)
    prune(model, graph, random_keep(graph, 5))
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


def test_attributes_tell_the_new_sizes() -> None:
    build, draw = HARD["grouped"]
    model = build()
    graph = trace(model, draw(1))
    keep = {"a": range(6), "wide": range(2)}
    prune(model, graph, keep)
    assert (model.a.out_channels, model.wide.in_channels, model.wide.groups) == (12, 12, 2)
    assert model.wide.weight.shape == (8, 6, 3, 3)
    assert (model.narrow.groups, model.narrow.in_channels, model.narrow.out_channels) == (4, 8, 16)
    assert (model.multiplied.groups, model.multiplied.out_channels) == (16, 32)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))
    graph = trace(net, torch.zeros(1, 3, 4, 4))
    prune(net, graph, {"0": [0, 2]})
    assert (net[1].num_groups, net[1].num_channels) == (2, 4)
    vit = ViT("plain")
    prune(vit, trace(vit, torch.zeros(1, 3, 32, 32)), {"blocks.0.attn.qkv": [0, 3]})
    attention = vit.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.inner) == (2, 8, 16)
    assert (attention.qkv.out_features, attention.proj.in_features) == (48, 16)


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, 0.9)])
def test_the_optimizer_goes_on_with_the_state_of_what_stays(make) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = make(net.parameters())
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    graph = trace(net, torch.randn(2, 4))
    identities = [id(parameter) for parameter in net.parameters()]
    state = {k: v.clone() for k, v in optimizer.state[net[0].weight].items() if v.dim() == 2}
    gradient = net[3].weight.grad.clone()
    kept = [1, 2, 5]
    prune(net, graph, {"0": kept}, optimizer=optimizer)
    assert [id(parameter) for parameter in net.parameters()] == identities
    assert state
    for key, value in state.items():
        assert torch.equal(optimizer.state[net[0].weight][key], value[kept])
    assert torch.equal(net[3].weight.grad, gradient[:, kept])
    net(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()


class Keeps(nn.Module):
    """Holds the activation of its last call, with its gradient graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = self.a(x)
        return self.b(torch.relu(self.kept))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_keeps_what_it_computed_trains_on(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Keeps().to(dtype)
    graph, x = trace(net, torch.randn(2, 4, dtype=dtype)), torch.randn(8, 4, dtype=dtype)
    net(x).square().sum().backward()
    before = net.kept
    prune(net, graph, {"a": [1, 2, 5]})
    net(x).square().sum().backward()
    assert net.a.weight.grad is not None
    assert (net.a.weight.grad.shape, net.a.weight.dtype) == ((3, 4), dtype)
    assert before.shape == (8, 6)


def test_adamw_keeps_its_moments_of_the_kept_units_and_its_step() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(3):
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[net[2].weight].items()}
    prune(net, trace(net, torch.randn(2, 4)), {"0": [1, 2, 5]}, optimizer=optimizer)
    after = optimizer.state[net[2].weight]
    assert after["step"] == 3
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name], before[name][:, [1, 2, 5]])


def test_factored_state_is_cut_where_it_has_the_dimension_and_other_state_begins_anew() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first, second = net[0].weight, net[2].weight
    optimizer.state[first] = {"row": torch.arange(6.0)[:, None], "column": torch.arange(4.0)[None]}
    optimizer.state[second] = {"step": 2, "preconditioner": torch.eye(12)}
    prune(net, trace(net, torch.randn(2, 4)), {"0": [1, 5]}, optimizer=optimizer)
    assert optimizer.state[first]["row"].tolist() == [[1.0], [5.0]]
    assert optimizer.state[first]["column"].tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert optimizer.state[second] == {}


def test_buffers_and_memory_format_stay_what_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    net = net.to(memory_format=torch.channels_last)
    graph = trace(net, torch.zeros(1, 3, 8, 8))
    net[1].running_mean.copy_(torch.arange(8.0))
    prune(net, graph, {"0": [1, 6]})
    assert net[1].running_mean.tolist() == [1.0, 6.0]
    assert "running_mean" in dict(net[1].named_buffers())
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_that_does_not_fit_is_refused_and_untouched() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = trace(net, torch.zeros(1, 4))
    prune(net, graph, {"0": [0, 1]})
    with pytest.raises(GraphError, match=r"0\.weight must have the shape \(6, 4\), got \(2, 4\)"):
        prune(net, graph, {"0": [0, 1]})
    assert net[2].weight.shape == (2, 2)
