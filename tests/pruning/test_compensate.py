"""Repair against brute-force least squares on the data, and its promises as properties."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from autoprune.errors import UsageError
from autoprune.graph import Group, PruningGraph, Slice
from autoprune.pruning.compensate import (
    calibrate,
    predict_batchnorm,
    reconstruction_errors,
    reestimate_batchnorm,
    repair,
)


def piece(tensor, dim, indices):
    return Slice(tensor, dim, np.asarray(indices), "in" if dim else "out")


def graph_of(**groups):
    """A graph by hand: group name -> its slices."""
    found = tuple(
        Group(name, "channel", len(slices[0].indices), tuple(slices))
        for name, slices in groups.items()
    )
    return PruningGraph(found, (), (), (), {}, {})


def cut(model, graph, keep):
    """Plain removal, by indexing."""
    small = copy.deepcopy(model)
    tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    lost = {}
    for name, kept in keep.items():
        group = graph.group(name)
        gone = sorted(set(range(group.size)) - set(kept))
        for part in group.slices:
            lost.setdefault((part.tensor, part.dim), []).extend(part.indices[gone].ravel())
    for (tensor, dim), gone in lost.items():
        data = tensors[tensor].data
        stay = sorted(set(range(data.shape[dim])) - set(gone))
        tensors[tensor].data = data.index_select(dim, torch.tensor(stay))
    return small


def each(size):
    return np.arange(size)[:, None]


def two_layers(hidden=6, bias=True):
    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3, bias=bias))
    slices = [piece("0.weight", 0, each(hidden)), piece("0.bias", 0, each(hidden))]
    return model, graph_of(hidden=[*slices, piece("2.weight", 1, each(hidden))])


def test_the_repaired_layer_is_the_least_squares_fit_on_the_data():
    torch.manual_seed(0)
    model, graph = two_layers()
    x = torch.randn(200, 4)
    keep = {"hidden": [0, 2, 3]}
    small = cut(model, graph, keep)
    repair(small, model, graph, keep, calibrate(model, [x]), ridge=1e-12)
    inputs = F.relu(F.linear(x, model[0].weight, model[0].bias))[:, [0, 2, 3]].detach().numpy()
    design = np.hstack([inputs, np.ones((200, 1))])
    fit = np.linalg.lstsq(design, model(x).detach().numpy(), rcond=None)[0]
    np.testing.assert_allclose(small[2].weight.detach(), fit[:3].T, atol=2e-4)
    np.testing.assert_allclose(small[2].bias.detach(), fit[3], atol=2e-4)


def test_a_repaired_transposed_convolution_is_the_least_squares_fit_of_its_taps():
    torch.manual_seed(0)
    wide = nn.ConvTranspose2d(6, 2, 3, stride=2, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), wide)
    slices = [piece("0.weight", 0, each(6)), piece("0.bias", 0, each(6))]
    graph = graph_of(hidden=[*slices, Slice("2.weight", 0, each(6), "in")])
    x, keep = torch.randn(8, 3, 5, 4), {"hidden": [1, 2, 5]}
    small = cut(model, graph, keep)
    calibration = calibrate(model, [x])
    repair(small, model, graph, keep, calibration, ridge=1e-10)
    hidden = model[:2](x).detach()
    columns = []  # what a weight of 1 at one tap alone gives
    for channel in keep["hidden"]:
        for tap in torch.eye(9).view(9, 1, 1, 3, 3):
            column = F.conv_transpose2d(hidden[:, channel, None], tap, stride=2, padding=1)
            columns.append(column.flatten().numpy())
    design = np.stack([*columns, np.ones_like(columns[0])], axis=1)
    wanted = model(x).detach().movedim(1, -1).reshape(-1, 2).numpy()
    fit = np.linalg.lstsq(design, wanted, rcond=None)[0]
    found = small[2].weight.detach().movedim(1, -1).reshape(27, 2)
    np.testing.assert_allclose(found, fit[:27], atol=5e-4)
    np.testing.assert_allclose(small[2].bias.detach(), fit[27], atol=5e-4)
    errors = reconstruction_errors(small, model, graph, keep, calibration)
    left = np.square(design @ fit - wanted).sum() / np.square(wanted - wanted.mean(0)).sum()
    assert errors["2.weight"] == pytest.approx(left, rel=1e-2)


def test_without_a_bias_the_fit_goes_through_the_origin():
    torch.manual_seed(0)
    model, graph = two_layers(bias=False)
    x = torch.randn(200, 4)
    keep = {"hidden": [1, 4]}
    small = cut(model, graph, keep)
    repair(small, model, graph, keep, calibrate(model, [x]), ridge=1e-12)
    inputs = model[1](model[0](x))[:, [1, 4]].detach().numpy()
    fit = np.linalg.lstsq(inputs, model(x).detach().numpy(), rcond=None)[0]
    np.testing.assert_allclose(small[2].weight.detach(), fit.T, atol=2e-4)


def test_a_duplicated_channel_can_leave_without_any_loss():
    torch.manual_seed(0)
    model, graph = two_layers()
    with torch.no_grad():
        model[0].weight[5] = model[0].weight[1]
        model[0].bias[5] = model[0].bias[1]
    x = torch.randn(64, 4)
    keep = {"hidden": [0, 1, 2, 3, 4]}
    small = cut(model, graph, keep)
    calibration = calibrate(model, [x])
    plain = reconstruction_errors(small, model, graph, keep, calibration)
    repair(small, model, graph, keep, calibration, ridge=1e-10)
    assert plain["2.weight"] > 1e-3
    torch.testing.assert_close(small(x), model(x), atol=1e-4, rtol=1e-4)


def test_a_constant_channel_moves_into_the_bias():
    model, graph = two_layers(hidden=2)
    with torch.no_grad():
        model[0].weight[1] = 0.0
        model[0].bias[1] = 3.0
    x = torch.randn(32, 4)
    small = cut(model, graph, {"hidden": [0]})
    repair(small, model, graph, {"hidden": [0]}, calibrate(model, [x]))
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_the_running_mean_takes_the_shift_of_a_convolution_without_bias():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)
    ).eval()
    graph = graph_of(
        g=[
            piece("0.weight", 0, each(4)),
            piece("0.bias", 0, each(4)),
            piece("2.weight", 1, each(4)),
        ]
    )
    x = torch.randn(8, 2, 6, 6)
    calibration = calibrate(model, [x])
    small = cut(model, graph, {"g": [0, 1, 3]})
    repair(small, model, graph, {"g": [0, 1, 3]}, calibration)
    before, after = model(x), small(x)
    torch.testing.assert_close(after.mean((0, 2, 3)), before.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not torch.equal(small[3].running_mean, model[3].running_mean)


class Joined(nn.Module):
    """Two producers concatenated, then read by two consumers, one of which also loses outputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Conv2d(10, 6, 3, stride=2, dilation=2, padding=2)
        self.second = nn.Conv2d(10, 4, 1, groups=2)
        self.last = nn.Linear(6 + 4, 3)

    def joined(self, x):
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)

    def forward(self, x):
        x = self.joined(x)
        a, b = F.relu(self.first(x)).mean((2, 3)), self.second(x).mean((2, 3))
        return self.last(torch.cat([a, b], 1))


def joined_graph():
    # the grouped convolution unites channel j with channel j + 5 of the concatenation: left 0..3
    # with right 1..4, and right 0 with right 5 (which are the places 4 and 9)
    pairs = [(0, 5), (1, 6), (2, 7), (3, 8), (4, 9)]
    left = [[j] for j in range(4)]
    right = [[1], [2], [3], [4]]
    return graph_of(
        stem=[
            piece("left.weight", 0, left),
            piece("left.bias", 0, left),
            piece("right.weight", 0, right),
            piece("right.bias", 0, right),
            piece("first.weight", 1, pairs[:4]),
            piece("second.weight", 1, [[0], [1], [2], [3]]),
        ],
        inner=[
            piece("first.weight", 0, each(6)),
            piece("first.bias", 0, each(6)),
            piece("last.weight", 1, each(6)),
        ],
    )


def test_concatenated_grouped_strided_and_twice_cut_consumers_are_fitted_to_their_own_rows():
    torch.manual_seed(0)
    model, graph = Joined(), joined_graph()
    x = torch.randn(24, 3, 8, 8)
    keep = {"stem": [0, 2, 3], "inner": [1, 2, 5]}
    small = cut(model, graph, keep)
    repair(small, model, graph, keep, calibrate(model, [x]), ridge=1e-12)
    with torch.no_grad():
        whole = model.joined(x)
        kept = whole[:, [0, 2, 3, 4, 5, 7, 8, 9]]
        patches = F.unfold(kept, 3, stride=2, dilation=2, padding=2).transpose(1, 2)
        design = np.pad(patches.reshape(-1, 72).numpy(), [(0, 0), (0, 1)], constant_values=1.0)
        wanted = model.first(whole)[:, [1, 2, 5]].flatten(2).transpose(1, 2).reshape(-1, 3)
        fit = np.linalg.lstsq(design.astype(np.float64), wanted.numpy(), rcond=None)[0]
        np.testing.assert_allclose(small.first.weight.reshape(3, -1), fit[:-1].T, atol=2e-3)
        for block in range(2):
            places = np.array([0, 2, 3, 4]) + 5 * block
            design = whole[:, places].flatten(2).transpose(1, 2).reshape(-1, 4).numpy()
            design = np.pad(design, [(0, 0), (0, 1)], constant_values=1.0)
            rows = slice(2 * block, 2 * block + 2)
            wanted = model.second(whole)[:, rows].flatten(2).transpose(1, 2).reshape(-1, 2)
            fit = np.linalg.lstsq(design, wanted.numpy(), rcond=None)[0]
            np.testing.assert_allclose(small.second.weight[rows, :, 0, 0], fit[:-1].T, atol=2e-3)
            np.testing.assert_allclose(small.second.bias[rows], fit[-1], atol=2e-3)


# how long an example takes is the machine's affair
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 10_000), ridge=st.sampled_from([1e-8, 1e-4, 1e-1, 10.0]))
def test_the_error_never_grows_whatever_leaves(data, seed, ridge):
    torch.manual_seed(seed)
    model, graph = Joined(), joined_graph()
    units = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(sorted)
    inner = st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True).map(sorted)
    keep = {"stem": data.draw(units), "inner": data.draw(inner)}
    scale = data.draw(st.sampled_from([1e-3, 1.0, 1e3]))
    calibration = calibrate(model, [torch.randn(4, 3, 6, 6) * scale])
    small = cut(model, graph, keep)
    plain = reconstruction_errors(small, model, graph, keep, calibration)
    repair(small, model, graph, keep, calibration, ridge=ridge)
    mended = reconstruction_errors(small, model, graph, keep, calibration)
    assert plain.keys() == mended.keys()
    for name, error in mended.items():
        assert error <= plain[name] * (1 + 1e-6) + 1e-9


def test_keeping_everything_changes_nothing():
    torch.manual_seed(0)
    model, graph = two_layers()
    small = copy.deepcopy(model)
    repair(small, model, graph, {"hidden": range(6)}, calibrate(model, [torch.randn(9, 4)]))
    assert all(
        torch.equal(a, b) for a, b in zip(small.parameters(), model.parameters(), strict=True)
    )


def test_the_mean_squared_error_on_the_data_is_the_one_that_is_reported():
    torch.manual_seed(0)
    model, graph = two_layers()
    x = torch.randn(300, 4)
    keep = {"hidden": [0, 5]}
    calibration = calibrate(model, [x])
    small = cut(model, graph, keep)
    for _ in range(2):  # of plain removal, then of the repaired layer
        reported = reconstruction_errors(small, model, graph, keep, calibration)
        with torch.no_grad():
            wanted = model(x)
            expected = (small(x) - wanted).square().sum(1).mean()
            expected /= wanted.var(0, correction=0).sum()
        assert reported["2.weight"] == pytest.approx(float(expected), rel=1e-4)
        repair(small, model, graph, keep, calibration)


def test_more_samples_than_one_still_repair_when_the_moment_is_singular():
    torch.manual_seed(0)
    model, graph = two_layers(hidden=16)
    keep = {"hidden": list(range(12))}
    small = cut(model, graph, keep)
    repair(small, model, graph, keep, calibrate(model, [torch.randn(3, 4)]))
    assert all(bool(torch.isfinite(p).all()) for p in small.parameters())


def test_a_ridge_that_is_not_above_zero_is_refused():
    model, graph = two_layers()
    with pytest.raises(UsageError, match="ridge must be above 0, got 0"):
        repair(model, model, graph, {}, calibrate(model, [torch.randn(9, 4)]), ridge=0.0)


def test_batch_normalisation_gets_the_plain_average_of_the_batches():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(1, momentum=0.1)).train()
    model[1].eval()
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]])]
    reestimate_batchnorm(model, batches)
    # means 1 and 6; unbiased variances 2 and 8
    assert model[1].running_mean.tolist() == [3.5]
    assert model[1].running_var.tolist() == [5.0]
    assert model[1].momentum == 0.1
    assert model[0].training
    assert not model[1].training


def test_a_model_without_batch_normalisation_is_left_alone():
    model = nn.Linear(2, 2)
    reestimate_batchnorm(model, iter([]))
    assert model.training


@pytest.mark.parametrize("groups", [1, 2])
def test_predicted_variances_are_those_that_the_layer_has_on_the_dense_models_inputs(groups):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 1),
        nn.ReLU(),
        nn.Conv1d(8, 4, 3, groups=groups, bias=False),
        nn.BatchNorm1d(4),
    )
    x = torch.randn(64, 3, 12)
    model.train()(x)
    model[3].momentum = 1.0
    model.train()(x)  # running statistics are those of the data
    model.eval()
    units = each(8) if groups == 1 else np.array([[j, j + 4] for j in range(4)])
    graph = graph_of(
        g=[
            piece("0.weight", 0, units),
            piece("0.bias", 0, units),
            piece("2.weight", 1, units[:, :1]),
        ]
    )
    keep = {"g": [0, 2, 3]}
    small = cut(model, graph, keep)
    calibration = calibrate(model, [x])
    repair(small, model, graph, keep, calibration)
    predict_batchnorm(small, model, graph, keep, calibration)
    with torch.no_grad():
        seen = small[:3](x)
    expected = seen.var((0, 2), correction=1)
    torch.testing.assert_close(small[3].running_var, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(small[3].running_mean, seen.mean((0, 2)), rtol=1e-3, atol=1e-5)
