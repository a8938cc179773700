"""The order of removal against brute-force least squares on the data."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.errors import UsageError
from autoprune.graph import Group, PruningGraph, Slice
from autoprune.pruning.compensate import calibrate, obs_scores

LAZY = pytest.mark.parametrize("lazy", [1, 20, 256])


def graph_of(*slices):
    size = len(slices[0][2])
    parts = tuple(
        Slice(tensor, dim, np.asarray(indices), role) for tensor, dim, indices, role in slices
    )
    return PruningGraph((Group("g", "channel", size, parts),), (), (), (), {}, {})


def each(size):
    return np.arange(size)[:, None]


def residual(inputs, columns, outputs):
    """Mean squared error of the best affine map from some columns, summed over outputs."""
    design = np.hstack([inputs[:, columns], np.ones((len(inputs), 1))])
    fit = np.linalg.lstsq(design, outputs, rcond=None)[0]
    return np.square(design @ fit - outputs).sum(1).mean()


def greedy(consumers, units):
    """Brute force: drop, each time, the unit whose loss leaves the smallest residual."""
    left, order, errors = set(range(units)), [], []
    while left:
        trial = {
            unit: sum(
                residual(
                    inputs,
                    np.concatenate([columns[u] for u in sorted(left - {unit})] or [[]]).astype(int),
                    outputs,
                )
                / outputs.var(0).sum()
                for inputs, columns, outputs in consumers
            )
            for unit in sorted(left)
        }
        worst = min(trial, key=trial.get)
        left.remove(worst)
        order.append(worst)
        errors.append(trial[worst])
    return order, errors


def order_of(scores):
    return scores.argsort().tolist()


@LAZY
def test_the_order_and_the_errors_are_those_of_greedy_removal_with_refitting(lazy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(400, 5)
    graph = graph_of(("0.weight", 0, each(8), "out"), ("2.weight", 1, each(8), "in"))
    scores = obs_scores(model, graph, calibrate(model, [x]), ridge=1e-9, lazy=lazy)["g"]
    with torch.no_grad():
        hidden, outputs = model[:2](x).double().numpy(), model(x).double().numpy()
    order, errors = greedy([(hidden, each(8), outputs)], 8)
    assert order_of(scores) == order
    np.testing.assert_allclose(scores[order], errors, rtol=1e-3, atol=1e-6)
    assert errors[-1] == pytest.approx(1.0)


class Fork(nn.Module):
    """One activation, read by a 3x3 convolution and, flattened, by a Linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 1)
        self.conv = nn.Conv2d(5, 3, 3)
        self.head = nn.Linear(5 * 16, 4)

    def hidden(self, x):
        return F.relu(self.stem(x))

    def forward(self, x):
        x = self.hidden(x)
        return self.conv(x).mean((2, 3)).sum() + self.head(x.flatten(1)).sum()


@LAZY
def test_blocks_of_columns_and_several_consumers_add_up(lazy):
    torch.manual_seed(1)
    model = Fork()
    x = torch.randn(300, 2, 4, 4)
    graph = graph_of(
        ("stem.weight", 0, each(5), "out"),
        ("conv.weight", 1, each(5), "in"),
        ("head.weight", 1, np.arange(80).reshape(5, 16), "in"),
    )
    scores = obs_scores(model, graph, calibrate(model, [x]), ridge=1e-9, lazy=lazy)["g"]
    with torch.no_grad():
        hidden = model.hidden(x)
        patches = F.unfold(hidden, 3).transpose(1, 2).reshape(-1, 45)
        conv = model.conv(hidden).flatten(2).transpose(1, 2).reshape(-1, 3)
        flat, head = hidden.flatten(1), model.head(hidden.flatten(1))
    consumers = [
        (patches.double().numpy(), np.arange(45).reshape(5, 9), conv.double().numpy()),
        (flat.double().numpy(), np.arange(80).reshape(5, 16), head.double().numpy()),
    ]
    order, errors = greedy(consumers, 5)
    assert order_of(scores) == order
    np.testing.assert_allclose(scores[order], errors, rtol=2e-3, atol=1e-5)


@LAZY
def test_inputs_of_other_groups_stay_and_take_over(lazy):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.randn(400, 5)
    mine = np.array([[7], [1], [4], [2]])  # the other inputs belong to nobody that leaves
    graph = graph_of(("0.weight", 0, mine, "out"), ("2.weight", 1, mine, "in"))
    scores = obs_scores(model, graph, calibrate(model, [x]), ridge=1e-9, lazy=lazy)["g"]
    with torch.no_grad():
        hidden, outputs = model[:2](x).double().numpy(), model(x).double().numpy()
    others = [0, 3, 5, 6, 8]
    left, errors = [0, 1, 2, 3], []
    for unit in order_of(scores):
        left_without = {
            u: residual(hidden, [*others, *mine[[k for k in left if k != u], 0]], outputs)
            for u in left
        }
        assert unit == min(left_without, key=left_without.get)
        errors.append(left_without[unit] / outputs.var(0).sum())
        left.remove(unit)
    np.testing.assert_allclose(scores[order_of(scores)], errors, rtol=1e-3, atol=1e-6)


def test_a_copy_leaves_first_and_its_original_stays_long():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[2]
        model[0].bias[4] = model[0].bias[2]
        model[0].bias.fill_(0.5)
        model[2].weight.uniform_(1.0, 2.0)
        model[2].weight[:, [2, 4]] = 3.0  # magnitude would keep both
    graph = graph_of(("0.weight", 0, each(6), "out"), ("2.weight", 1, each(6), "in"))
    scores = obs_scores(model, graph, calibrate(model, [torch.randn(200, 5)]))["g"]
    first, *rest = order_of(scores)
    assert first in (2, 4)
    assert rest[-1] == 6 - first


def test_outputs_count_with_the_slope_of_the_normalisation_behind_them():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1, bias=False), nn.BatchNorm1d(2)
    ).eval()
    with torch.no_grad():
        model[1].weight[:] = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[..., None]
        model[0].weight[:] = torch.eye(2)[..., None]
    graph = graph_of(("0.weight", 0, each(2), "out"), ("1.weight", 1, each(2), "in"))
    calibration = calibrate(model, [torch.randn(500, 2, 8)])
    assert order_of(obs_scores(model, graph, calibration)["g"]) == [0, 1]
    with torch.no_grad():
        model[2].weight[:] = torch.tensor([1.0, 0.1])
    assert order_of(obs_scores(model, graph, calibration)["g"]) == [1, 0]


def test_dead_units_leave_first_and_all_scores_differ():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight[:, [1, 3, 5]] = 0.0
    graph = graph_of(("0.weight", 0, each(6), "out"), ("2.weight", 1, each(6), "in"))
    scores = obs_scores(model, graph, calibrate(model, [torch.randn(200, 5)]))["g"]
    assert sorted(order_of(scores)[:3]) == [1, 3, 5]
    assert len(set(scores.tolist())) == 6


def test_a_group_that_nothing_weighs_falls_back_to_its_producers_norm():
    model = nn.Linear(1, 3)
    with torch.no_grad():
        model.weight[:, 0] = torch.tensor([3.0, -4.0, 2.0])
    graph = graph_of(("weight", 0, each(3), "out"), ("bias", 0, each(3), "out"))
    scores = obs_scores(model, graph, calibrate(model, [torch.randn(20, 1)]))["g"]
    assert scores.tolist() == [3.0, 4.0, 2.0]


def test_a_ridge_that_is_not_above_zero_is_refused():
    model = nn.Linear(1, 3)
    graph = graph_of(("weight", 0, each(3), "out"))
    with pytest.raises(UsageError, match="ridge must be above 0, got -1"):
        obs_scores(model, graph, calibrate(model, [torch.randn(20, 1)]), ridge=-1.0)
