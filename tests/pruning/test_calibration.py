"""Moments against brute force: unfold, NumPy's covariance, hand arithmetic."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.cost.analytic import count_cost
from autoprune.errors import UsageError
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.dense_outputs import record


def reference(rows):
    rows = rows.double().numpy()
    return rows.mean(0), np.cov(rows, rowvar=False, bias=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"dilation": 2},
        {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    ],
)
def test_the_moment_of_a_convolution_is_that_of_its_unfolded_patches(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (3, 2), **options)
    x = torch.randn(5, 3, 9, 8) + 2.0
    moment = calibrate(conv, [x], max_samples=5).moments["weight"]
    patches = F.unfold(x, (3, 2), **options).transpose(1, 2).reshape(-1, 18)
    mean, covariance = reference(patches)
    assert moment.rows == len(patches)
    np.testing.assert_allclose(moment.mean[0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moment.covariance[0], covariance, rtol=1e-4, atol=1e-5)


def test_the_moment_of_a_one_dimensional_convolution_counts_every_window():
    conv = nn.Conv1d(1, 1, 2)
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    moment = calibrate(conv, [x]).moments["weight"]
    # windows (1, 2) and (2, 4): means 1.5 and 3, deviations -+0.5 and -+1
    torch.testing.assert_close(moment.mean, torch.tensor([[1.5, 3.0]], dtype=torch.float64))
    expected = torch.tensor([[[0.25, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(moment.covariance, expected)


def test_a_grouped_convolution_has_one_moment_for_each_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, groups=2)
    x = torch.randn(4, 6, 7, 7)
    moment = calibrate(conv, [x]).moments["weight"]
    for block, part in enumerate((x[:, :3], x[:, 3:])):
        _, covariance = reference(F.unfold(part, 3).transpose(1, 2).reshape(-1, 27))
        np.testing.assert_allclose(moment.covariance[block], covariance, rtol=1e-4, atol=1e-5)


def test_tokens_of_a_linear_layer_are_its_rows_and_batches_add_up():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    x = torch.randn(12, 7, 5) * 3.0 + 10.0
    whole = calibrate(layer, [x]).moments["weight"]
    split = calibrate(layer, [x[:4], x[4:5], x[5:]]).moments["weight"]
    _, covariance = reference(x.reshape(-1, 5))
    assert whole.rows == split.rows == 84
    assert whole.bias == "bias"
    np.testing.assert_allclose(whole.covariance[0], covariance, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split.covariance, whole.covariance, rtol=1e-5, atol=1e-5)


def test_drawn_positions_estimate_the_moment_of_all_positions():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3)
    x = F.avg_pool2d(torch.randn(16, 2, 80, 80), 3, 1)
    few = calibrate(conv, [x], max_samples=65536 // 16).moments["weight"]
    everything = calibrate(conv, [x], max_samples=16).moments["weight"]
    assert few.rows == 16 * 16
    assert everything.rows > 16 * 4000
    scale = everything.covariance.abs().max()
    assert (few.covariance - everything.covariance).abs().max() < 0.5 * scale
    again = calibrate(conv, [x], max_samples=65536 // 16).moments["weight"]
    assert torch.equal(few.covariance, again.covariance)
    other = calibrate(conv, [x], max_samples=65536 // 16, seed=1).moments["weight"]
    assert not torch.equal(few.covariance, other.covariance)


def test_no_more_than_max_samples_are_used():
    layer = nn.Linear(2, 2)
    batches = [(torch.ones(6, 2), torch.zeros(6)), (torch.zeros(6, 2), torch.zeros(6))]
    calibration = calibrate(layer, batches, max_samples=8)
    assert calibration.samples == 8
    assert calibration.moments["weight"].mean.tolist() == [[0.75, 0.75]]


def test_the_model_its_modes_and_the_random_state_are_unchanged():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    model.append(nn.Linear(4 * 36, 2)).train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    calibrate(model, [torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(torch.rand(4), expected)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_embeddings_with_a_largest_norm_are_unchanged_by_calibration_and_cost():
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Linear(4, 2))
    before = model[0].weight.detach().clone()
    x = torch.arange(8).reshape(4, 2)
    calibrate(model, [x])
    count_cost(model, x)
    record(model, [x])
    assert torch.equal(model[0].weight, before)


class Noting(nn.Module):
    """Passes its input on, and notes whether oneDNN is on."""

    def forward(self, x):
        self.enabled = torch.backends.mkldnn.enabled
        return x


def test_both_layers_of_an_lstm_have_moments_and_other_modules_keep_onednn():
    torch.manual_seed(0)
    enabled = torch.backends.mkldnn.enabled
    model = nn.Sequential(Noting(), nn.LSTM(3, 4, num_layers=2, batch_first=True))
    x = torch.randn(6, 5, 3) + 1.0
    calibration = calibrate(model, [x])
    below = nn.LSTM(3, 4, batch_first=True)
    below.load_state_dict({n: model[1].state_dict()[n] for n in below.state_dict()})
    for layer, rows in enumerate((x, below(x)[0].detach())):
        moment = calibration.moments[f"1.weight_ih_l{layer}"]
        mean, covariance = reference(rows.reshape(30, -1))
        np.testing.assert_allclose(moment.mean[0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moment.covariance[0], covariance, rtol=1e-4, atol=1e-5)
    assert {"1.weight_hh_l0", "1.weight_hh_l1"} < calibration.moments.keys()
    assert not calibration.skipped
    assert (model[0].enabled, torch.backends.mkldnn.enabled) == (enabled, enabled)
    assert not model[1]._forward_hooks
    assert not model[1]._forward_pre_hooks


class Sharing(nn.Module):
    """An embedding tied with the output, a layer that is called twice, attention, a bare weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.twice = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bare = nn.Parameter(torch.randn(8, 4))
        self.depthwise = nn.Conv1d(4, 4, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose1d(4, 8, 2)

    def forward(self, tokens):
        x = self.twice(self.twice(self.embed(tokens)))
        x, _ = self.attention(x, x, x)
        x = (x @ self.bare).transpose(1, 2)
        x = self.up(self.depthwise(x)).transpose(1, 2)
        return x @ self.embed.weight.T


def test_every_use_of_a_weight_is_seen_and_what_cannot_be_weighed_is_named():
    torch.manual_seed(0)
    calibration = calibrate(Sharing(), [torch.randint(0, 11, (6, 5))])
    rows = {name: moment.rows for name, moment in calibration.moments.items()}
    assert rows == {
        "twice.weight": 60,
        "attention.in_proj_weight": 30,
        "attention.out_proj.weight": 30,
        "bare": 30,
        "up.weight": 36,  # a row for each of the 6 output positions
    }
    assert calibration.moments["bare"].input_dim == 0
    assert calibration.moments["attention.out_proj.weight"].bias == "attention.out_proj.bias"
    assert set(calibration.skipped) == {"embed.weight", "depthwise.weight"}
    assert "embedding" in calibration.skipped["embed.weight"]


class Viewed(nn.Module):
    """A bare weight, and the product that takes a view of it."""

    def __init__(self, shape, product):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.product = product

    def forward(self, x):
        return self.product(x, self.w)


@pytest.mark.parametrize(
    ("shape", "inputs", "product"),
    [
        ((4, 4, 3, 3), (2, 4, 5, 5), lambda x, w: F.conv2d(x, w.transpose(0, 1))),
        ((3, 3, 4, 5), (2, 4, 5, 5), lambda x, w: F.conv2d(x, w.permute(3, 2, 0, 1))),
        ((4, 4, 3, 3), (2, 4, 5, 5), lambda x, w: F.conv2d(x, w.transpose(2, 3))),
        ((4, 2, 3), (7, 4), lambda x, w: x @ w.flatten(1)),
        ((4, 2, 3), (7, 4), lambda x, w: torch.tensordot(x, w, 1)),
        ((2, 3, 4), (7, 4), lambda x, w: F.linear(x, w.flatten(0, 1))),
        ((4, 3), (7, 6), lambda x, w: x @ w.view(6, 2)),
    ],
)
def test_a_weight_that_is_permuted_or_reshaped_is_named_and_not_weighed(shape, inputs, product):
    calibration = calibrate(Viewed(shape, product), [torch.randn(inputs)])
    assert not calibration.moments
    assert calibration.skipped == {"w": "used through a permuted or reshaped view"}


@pytest.mark.parametrize(
    ("shape", "inputs", "product", "input_dim"),
    [
        ((4, 4), (7, 4), lambda x, w: x @ w, 0),
        ((4, 4), (7, 4), lambda x, w: x @ w.T, 1),
        ((1, 4), (7, 4), lambda x, w: x @ w.T, 1),
        ((4, 4), (2, 4, 9), lambda x, w: F.conv1d(x, w[..., None]), 1),
        ((4, 4, 1, 1), (7, 4), lambda x, w: F.linear(x, w.flatten(1)), 1),
        ((5, 4, 3), (2, 4, 1, 9), lambda x, w: F.conv2d(x, w[:, :, None]), 1),
    ],
)
def test_a_transpose_and_dimensions_of_one_are_still_the_weight(shape, inputs, product, input_dim):
    moment = calibrate(Viewed(shape, product), [torch.randn(inputs)]).moments["w"]
    assert moment.input_dim == input_dim


def test_frozen_weights_and_inputs_in_another_layout_are_seen_too():
    layer = nn.Linear(4, 3).requires_grad_(False)
    model = nn.Sequential(layer)
    x = torch.randn(5, 6, 4)
    calibration = calibrate(model, [x.transpose(0, 1)])
    assert calibration.moments["0.weight"].rows == 30


def test_the_norm_behind_a_convolution_is_known_only_when_it_alone_takes_the_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(3))
            self.norm_a, self.norm_b = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x):
            x = F.relu(self.norm_a(self.a(x)))
            y = self.b(x)
            return self.norm_b(y) + y + self.c(x)

    calibration = calibrate(Net(), [torch.randn(4, 2, 5, 5)])
    norms = {name: moment.norm for name, moment in calibration.moments.items()}
    assert norms == {"a.weight": "norm_a", "b.weight": None, "c.weight": None}


def test_statistics_in_front_of_a_norm_are_those_of_its_input():
    norm = nn.BatchNorm1d(2)
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    mean, variance = calibrate(norm, [x]).norms[""]
    assert mean.tolist() == [2.0, 5.0]
    assert variance.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("values", [1, 100, 2**20])
def test_statistics_do_not_depend_on_how_much_is_worked_on_at_once(monkeypatch, values):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    x = torch.randn(7, 3, 6, 5, dtype=torch.float64)
    monkeypatch.setattr("autoprune.pruning.calibration._CHUNK_VALUES", values)
    monkeypatch.setattr("autoprune.pruning.calibration._CHUNK_ROWS", 3)
    calibration = calibrate(model, [x])
    y = model[0](x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(calibration.norms["1"][0], y.mean(1).detach())
    torch.testing.assert_close(calibration.norms["1"][1], y.var(1, correction=0).detach())
    rows = F.unfold(x, 3).transpose(1, 2).flatten(0, 1)
    found = calibration.moments["0.weight"].covariance[0]
    torch.testing.assert_close(found, rows.T.cov(correction=0), rtol=1e-5, atol=1e-6)


def test_batches_may_be_mappings_or_anything_with_a_forward_of_ones_own():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, *, features):
            return self.layer(features)

    x = torch.randn(7, 3)
    first = calibrate(Named(), [{"features": x}]).moments["layer.weight"]
    second = calibrate(
        Named(), [["ignored", x]], forward=lambda model, batch: model(features=batch[1])
    ).moments["layer.weight"]
    assert torch.equal(first.covariance, second.covariance)


def test_a_calibration_can_be_sent_to_another_process():
    calibration = calibrate(nn.Linear(3, 2), [torch.randn(7, 3)])
    copied = pickle.loads(pickle.dumps(calibration))
    moment = calibration.moments["weight"]
    assert torch.equal(copied.moments["weight"].covariance, moment.covariance)
    assert calibration.nbytes == 8 * (9 + 3)


def test_bad_input_is_refused_in_one_line():
    layer = nn.Linear(3, 2)
    with pytest.raises(UsageError, match="at least one batch"):
        calibrate(layer, [])
    with pytest.raises(UsageError, match="max_samples must be at least 1, got 0"):
        calibrate(layer, [torch.zeros(2, 3)], max_samples=0)
    with pytest.raises(UsageError, match="must hold a tensor"):
        calibrate(layer, ["text"])
    with pytest.raises(UsageError, match="NaN"):
        calibrate(layer, [torch.full((2, 3), float("nan"))])


def test_sparse_tensors_are_no_parameters_and_no_samples():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Parameter(torch.ones(6, 4))

        def forward(self, matrix):
            return self.a(matrix @ self.b)

    found = calibrate(Net(), [torch.eye(6).to_sparse()])
    assert list(found.moments) == ["a.weight"]
    assert found.skipped == {"b": "applied to a sparse tensor"}
