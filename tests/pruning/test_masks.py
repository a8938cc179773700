from __future__ import annotations

import copy

import pytest
import torch
from models.cutting import answers, flat, random_keep
from models.zoo import ZOO, settled
from torch import Tensor, nn

from autoprune.graph import trace
from autoprune.pruning.masks import masked
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable


def test_what_leaves_is_zero_after_the_norm_too() -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
    graph = trace(net, torch.zeros(1, 3, 2, 2))
    seen = masked(net, graph, {"0": [0, 3]})
    hidden = seen[1](seen[0](torch.randn(5, 3, 2, 2)))
    assert torch.equal(hidden[:, 1:3], torch.zeros(5, 2, 2, 2))
    assert hidden[:, 0].abs().min() > 0
    assert torch.equal(seen[2].weight[:, 1:3], torch.zeros(2, 2, 1, 1))


def test_the_given_model_is_not_touched_and_shapes_stay() -> None:
    build, draw = ZOO["convnext"]
    model = settled(build())
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, draw(1))
    seen = masked(model, graph, {g.name: range(0, g.size, 2) for g in graph.groups})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {k: v.shape for k, v in seen.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    assert not model._forward_pre_hooks


def test_keeping_everything_is_the_dense_model() -> None:
    build, draw = ZOO["convnext"]
    model, x = settled(build()).eval(), draw(2)
    graph = trace(model, x)
    assert torch.equal(flat(masked(model, graph, {})(x)), flat(model(x)))


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(1, 6), nn.GroupNorm(6, 6)]
)
def test_norms_over_channels_see_only_what_is_kept(norm: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), norm, nn.Linear(6, 2)).double()
    graph = trace(net, torch.zeros(3, 4).double())
    kept = [0, 2, 5]
    x = torch.randn(7, 4).double()
    hidden = (x @ net[0].weight[kept].T + net[0].bias[kept]).detach()
    if isinstance(norm, nn.GroupNorm) and norm.num_groups == 6:
        normed = torch.zeros_like(hidden)  # each channel alone is its own mean
    elif isinstance(norm, nn.RMSNorm):
        eps = torch.finfo(torch.float64).eps
        normed = hidden / (hidden.square().mean(1, keepdim=True) + eps).sqrt()
    else:
        centered = hidden - hidden.mean(1, keepdim=True)
        normed = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
    wanted = normed @ net[2].weight[:, kept].T + net[2].bias
    copied = copy.deepcopy(masked(net, graph, {"0": kept}))
    torch.testing.assert_close(copied(x), wanted, atol=1e-9, rtol=1e-9)


class Windows(nn.Module):
    """Attention within windows, with a mask for each of four windows that is held as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = 2, nn.Linear(8, 24), nn.Linear(8, 8)
        self.register_buffer("mask", torch.randn(4, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2)).view(b // 4, 4, self.heads, n, n) + self.mask[None, :, None]
        a = a.view(-1, self.heads, n, n).softmax(-1)
        return x + self.proj((a @ v).transpose(1, 2).reshape(b, n, c))


def test_heads_are_kept_where_they_are_merged_with_a_larger_dimension() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), Windows(), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    x = torch.randn(8, 9, 5)
    graph = prunable(model, x)
    assert graph.sizes() == {"0": 2}
    keep = random_keep(graph, 3)
    small, dense = copy.deepcopy(model), masked(model, graph, keep)
    prune(small, graph, keep)
    got, wanted = (answers(net.double(), (x.double(),)) for net in (small, dense))
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-12)
