"""Sparse weights: exact shares, N:M by brute force, repair, and mixed with units and blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.architecture import Architecture
from autoprune.errors import UsageError
from autoprune.graph import trace
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.pruning.compensate import calibrate
from autoprune.pruning.sparsity import Choice, choose, sparse_weights
from autoprune.pruning.verification import prunable
from autoprune.pruning.weight_importance import METHODS


class Net(nn.Module):
    """Convolutions of every kind, a residual block, a matrix used as `x @ w`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.body = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 1))
        self.grouped = nn.Conv2d(12, 16, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.table = nn.Parameter(torch.randn(6, 10))
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.depthwise(x))
        x = x + self.body(x)
        x = torch.relu(self.up(torch.relu(self.grouped(x)))).mean((2, 3))
        return self.head(torch.relu(x @ self.table))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(32, 3, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_contracted_weight_is_found_with_the_dimension_of_its_inputs(net: Net) -> None:
    assert sparse_weights(net, trace(net, torch.zeros(1, 3, 8, 8))) == {
        "first.weight": 1,
        "body.0.weight": 1,
        "body.2.weight": 1,
        "grouped.weight": 1,
        "up.weight": 0,
        "table": 0,
        "head.weight": 1,
    }


def test_a_weight_that_is_looked_up_as_well_has_no_pattern() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.mix = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.embed(x)) @ self.embed.weight.T

    model = Tied()
    assert sparse_weights(model, trace(model, torch.zeros(1, 3, dtype=torch.long))) == {
        "mix.weight": 1
    }


@pytest.mark.parametrize(("pattern", "zeros"), [("0.5", 30), ("0.33", 20), ("0.9999", 59)])
def test_the_share_of_zeros_is_exact(pattern: str, zeros: int) -> None:
    scores = torch.randn(4, 15, generator=torch.Generator().manual_seed(0))
    mask = choose(scores, pattern, 1)
    assert int(mask.sum()) == zeros
    assert scores[mask].max() <= scores[~mask].min()


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "3:4"])
@pytest.mark.parametrize("shape", [(3, 16), (2, 10, 3, 3), (2, 3)])
@pytest.mark.parametrize("dim", [0, 1])
def test_n_of_m_keeps_the_best_of_each_group(
    pattern: str, shape: tuple[int, ...], dim: int
) -> None:
    keep, size = map(int, pattern.split(":"))
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = choose(scores, pattern, dim).movedim(dim, -1).flatten(0, -2)
    lines = scores.movedim(dim, -1).flatten(0, -2)
    for line, pruned in zip(lines.tolist(), mask.tolist(), strict=True):
        for start in range(0, len(line), size):
            group = list(range(start, min(start + size, len(line))))
            choices = itertools.combinations(group, min(keep, len(group)))
            best = max(choices, key=lambda places: sum(line[i] for i in places))
            assert [i for i in group if not pruned[i]] == list(best)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs"])
@pytest.mark.parametrize("pattern", ["0.7", "2:4"])
def test_repair_brings_outputs_nearer_to_the_dense_models(
    net: Net, inputs: Tensor, method: str, pattern: str
) -> None:
    graph = trace(net, inputs[:1])
    there = Architecture(patterns=dict.fromkeys(sparse_weights(net, graph), pattern))
    known = calibrate(net, [inputs])
    far = []
    for repairing in (None, known):
        choice = Choice(METHODS[method], calibration=known)
        built = build(net, graph, there, calibration=repairing, choice=choice)
        far.append((built.model(inputs) - net(inputs)).square().mean().item())
        weights = dict(built.model.named_parameters())
        assert all(not weights[n][mask].any() for n, mask in built.masks.items())
    assert far[1] < 0.8 * far[0]


def test_patterns_count_what_is_left_of_channels_and_blocks(net: Net, inputs: Tensor) -> None:
    graph = prunable(net, inputs[:1])
    widths = {name: size - 2 for name, size in graph.sizes().items()}
    kinds = dict.fromkeys(sparse_weights(net, graph), "2:4") | {"first.weight": "0.5"}
    built = build(
        net,
        graph,
        Architecture(widths, ["body"], kinds),
        scores=importance.scores(net, graph, "l2"),
        calibration=calibrate(net, [inputs]),
    )
    assert set(built.masks) == {name for name in kinds if not name.startswith("body")}
    weights = dict(built.model.named_parameters())
    assert weights["grouped.weight"].shape[1] < net.grouped.weight.shape[1]
    for name, mask in built.masks.items():
        assert mask.shape == weights[name].shape
        assert torch.equal(weights[name] == 0.0, mask), name
    lines = (weights["head.weight"] != 0).long()
    for start in range(0, lines.shape[1], 4):
        assert int(lines[:, start : start + 4].sum(1).max()) <= 2
    assert built.model(inputs).isfinite().all()


def test_the_dense_model_is_not_changed(net: Net, inputs: Tensor) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph = trace(net, inputs[:1])
    build(net, graph, Architecture(patterns={"head.weight": "2:4"}))
    assert all(torch.equal(before[n], value) for n, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["norm.weight", "depthwise.weight", "nothing"])
def test_a_weight_that_can_have_none_is_named(net: Net, inputs: Tensor, name: str) -> None:
    graph = trace(net, inputs[:1])
    with pytest.raises(UsageError, match=f"patterns\\['{name}'\\]: only a weight that is"):
        build(net, graph, Architecture(patterns={name: "0.5"}))


def test_prune_model_takes_patterns_and_a_function(inputs: Tensor, net: Net) -> None:
    def last_first(group: autoprune.Group, weights: importance.Weights) -> Tensor:
        return torch.arange(group.size)

    small = autoprune.prune_model(net, inputs[:1], 0.25, importance=last_first, patterns="2:4")
    left, kept = small.table, small.table != 0
    assert left.shape == (5, 8)
    assert torch.equal(left[kept], net.table[1:, 2:][kept])
    assert float((small.head.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UsageError, match=r"patterns.* must be a sparsity"):
        autoprune.prune_model(net, inputs[:1], 0.25, patterns="4:2")
    with pytest.raises(UsageError, match="one number for each of the"):
        autoprune.prune_model(net, inputs[:1], 0.25, importance=lambda group, _: torch.ones(2))
