"""Layer-after-layer repair against a hand-written sequential least-squares fit."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from autoprune.errors import UsageError
from autoprune.graph import trace
from autoprune.pruning import surgery
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import repair
from autoprune.pruning.depth import drop
from autoprune.pruning.one_shot import prune_model
from autoprune.pruning.refit import record, refit


def pruned(model, graph, keep):
    small = copy.deepcopy(model)
    surgery.prune(small, graph, keep)
    return small


def affine_fit(inputs, outputs):
    design = np.hstack([inputs.detach().double().numpy(), np.ones((len(inputs), 1))])
    fit = np.linalg.lstsq(design, outputs.detach().double().numpy(), rcond=None)[0]
    return fit[:-1].T, fit[-1]


def test_each_layer_is_fitted_on_what_the_smaller_model_sees():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()
    )
    model.append(nn.Linear(8, 3))
    x = torch.randn(500, 6)
    graph = trace(model, x[:1])
    keep = {"0": [0, 1, 2, 4, 6], "2": [1, 2, 3, 5, 7]}
    small = pruned(model, graph, keep)
    refit(small, model, graph, keep, record(model, [x]), ridge=1e-10)
    with torch.no_grad():
        first = torch.tanh(F.linear(x, model[0].weight, model[0].bias)[:, keep["0"]])
        weight, bias = affine_fit(first, model[:3](x)[:, keep["2"]])
        np.testing.assert_allclose(small[2].weight, weight, atol=1e-3)
        np.testing.assert_allclose(small[2].bias, bias, atol=1e-3)
        second = small[:4](x)  # with the error that the first fit has left
        weight, bias = affine_fit(second, model[:5](x))
        np.testing.assert_allclose(small[:5](x), second.numpy() @ weight.T + bias, atol=1e-3)
        third = small[:6](x)  # this layer lost nothing, but its inputs changed
        weight, bias = affine_fit(third, model(x))
        np.testing.assert_allclose(small(x), third.numpy() @ weight.T + bias, atol=1e-3)


class Residual(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.blocks = nn.ModuleList(Block(6, inplace) for _ in range(2))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width, inplace):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.inplace = inplace

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.inplace:
            y += x
            return F.relu(y, inplace=True)
        return F.relu(x + y)


def trained_like(model, x):
    """Statistics and scales that are not those of a fresh model."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    model.train()
    for _ in range(50):
        model(x)
    return model.eval()


def inner(graph, kept):
    return {g.name: kept for g in graph.groups if g.name.endswith("conv1")}


@pytest.mark.parametrize("inplace", [False, True])
def test_the_residual_sum_is_the_target_of_the_layer_that_feeds_it(inplace):
    torch.manual_seed(0)
    x = torch.randn(64, 2, 6, 6)
    model = trained_like(Residual(inplace), x)
    graph = trace(model, x[:1])
    keep = inner(graph, [0, 2, 3])
    small = pruned(model, graph, keep)
    reference = record(model, [x])
    assert [n for n, t in reference.targets.items() if t.total is not None] == [
        "blocks.0.conv2.weight",
        "blocks.1.conv2.weight",
    ]
    refit(small, model, graph, keep, reference, ridge=1e-10)

    def stream(net, depth):
        y = F.relu(net.stem(x))
        for block in net.blocks[:depth]:
            y = block(y)
        return y

    with torch.no_grad():
        dense, block = model.blocks[1], small.blocks[1]
        before = stream(small, 1)
        dense_before = stream(model, 1)
        wanted = (
            dense_before
            - before
            + dense.norm2(dense.conv2(F.relu(dense.norm1(dense.conv1(dense_before)))))
        )
        hidden = F.relu(block.norm1(block.conv1(before)))
        patches = F.unfold(hidden, 3, padding=1).transpose(1, 2).reshape(-1, 27)
        weight, bias = affine_fit(patches, wanted.flatten(2).transpose(1, 2).reshape(-1, 6))
        found = block.norm2(block.conv2(hidden)).flatten(2).transpose(1, 2).reshape(-1, 6)
        expected = patches.numpy() @ weight.T + bias
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_what_reads_the_residual_stream_makes_up_for_a_dropped_block():
    torch.manual_seed(0)
    x = torch.randn(256, 2, 6, 6)
    model = trained_like(Residual(), x)
    graph = trace(model, x[:1])
    small = copy.deepcopy(model)
    drop(small, graph, ["blocks.0"])
    with torch.no_grad():
        before = (small(x) - model(x)).square().mean()
        refit(small, model, graph, {}, record(model, [x]), ridge=1e-6)
        after = (small(x) - model(x)).square().mean()
        again = F.relu(small.stem(x))  # what the first layer behind the block reads now
        hidden = model.blocks[1].conv1(model.blocks[0](F.relu(model.stem(x))))
        patches = F.unfold(again, 3, padding=1).transpose(1, 2).reshape(-1, 54)
        weight, bias = affine_fit(patches, hidden.flatten(2).transpose(1, 2).reshape(-1, 6))
        wanted = torch.from_numpy(patches.numpy() @ weight.T + bias).float()
        norm, other = small.blocks[1].norm1, model.blocks[1].norm1
        found = norm(small.blocks[1].conv1(again)).flatten(2).transpose(1, 2).reshape(-1, 6)
        target = other(hidden).flatten(2).transpose(1, 2).reshape(-1, 6)
        best = (other(wanted[..., None, None])[..., 0, 0] - target).square().mean()
        assert best <= (found - target).square().mean() < 1.02 * best
    assert after < 0.25 * before


def test_statistics_are_those_of_the_pass_so_training_mode_computes_the_same():
    torch.manual_seed(0)
    x = torch.randn(64, 2, 6, 6)
    model = trained_like(Residual(), x)
    graph = trace(model, x[:1])
    keep = inner(graph, [0, 2, 3])
    small = pruned(model, graph, keep)
    refit(small, model, graph, keep, record(model, [x]))
    with torch.no_grad():
        torch.testing.assert_close(small.train()(x), small.eval()(x), atol=2e-2, rtol=2e-2)


def test_the_outputs_come_nearer_than_after_repair_alone():
    torch.manual_seed(0)
    x, fresh = torch.randn(256, 2, 6, 6), torch.randn(256, 2, 6, 6)
    model = trained_like(Residual(), x)
    graph = trace(model, x[:1])
    keep = {g.name: [0, 1, 4] for g in graph.groups}
    small = pruned(model, graph, keep)
    repair(small, model, graph, keep, calibrate(model, [x]))
    with torch.no_grad():
        before = (small(fresh) - model(fresh)).square().mean()
        refit(small, model, graph, keep, record(model, [x]))
        after = (small(fresh) - model(fresh)).square().mean()
    assert after < 0.9 * before


def test_keeping_everything_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(16, 2, 6, 6)
    model = trained_like(Residual(), x)
    graph = trace(model, x[:1])
    small = copy.deepcopy(model)
    refit(small, model, graph, {}, record(model, [x]))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name])


class Attention(nn.Module):
    """A pre-norm transformer block: sums behind Linear layers, seen through views."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


def test_sums_are_found_behind_linear_layers_over_tokens():
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(40, 5, 8)
    graph = trace(model, x[:1])
    reference = record(model, [x[:24], x[24:]])
    assert reference.samples == 40
    assert reference.targets["down.weight"].total is not None
    keep = {"up": list(range(6))}
    small = pruned(model, graph, keep)
    refit(small, model, graph, keep, reference, ridge=1e-10)
    with torch.no_grad():
        hidden = F.gelu(small.up(small.norm(x))).reshape(-1, 6)
        wanted = model.down(F.gelu(model.up(model.norm(x)))).reshape(-1, 8)
        weight, bias = affine_fit(hidden, wanted)
        np.testing.assert_allclose(small.down.weight, weight, atol=1e-3)
        np.testing.assert_allclose(small.down.bias, bias, atol=1e-3)


class Depthwise(nn.Module):
    """Depthwise-separable, with a weight that is called twice."""

    def __init__(self):
        super().__init__()
        self.expand, self.depth = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 6, 3, padding=1, groups=6)
        self.project, self.twice = nn.Conv1d(6, 4, 1), nn.Conv1d(4, 4, 1)

    def forward(self, x):
        x = self.project(F.relu(self.depth(F.relu(self.expand(x)))))
        return self.twice(F.relu(self.twice(x)))


def test_a_weight_that_is_called_twice_keeps_its_value_and_depthwise_ones_are_fitted():
    torch.manual_seed(0)
    model, x = Depthwise(), torch.randn(64, 2, 9)
    graph = trace(model, x[:1])
    names = [group.name for group in graph.groups]
    reference = record(model, [x])
    assert set(reference.targets) == {"expand.weight", "depth.weight", "project.weight"}
    keep = {names[0]: [0, 1, 3]}
    small = pruned(model, graph, keep)
    with torch.no_grad():
        before = (small(x) - model(x)).square().mean()
        refit(small, model, graph, keep, reference)
        after = (small(x) - model(x)).square().mean()
    assert after < before
    assert torch.equal(small.twice.weight, model.twice.weight)


class Permuted(nn.Module):
    """A kernel that is stored with its inputs first, between two layers."""

    def __init__(self, wide):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(wide, 3, 1)
        self.w = nn.Parameter(torch.randn(8, wide, 3, 3) / 8)

    def forward(self, x):
        x = F.conv2d(F.relu(self.first(x)), self.w.transpose(0, 1), padding=1)
        return self.last(F.relu(x))


@pytest.mark.parametrize("wide", [8, 12])
def test_a_permuted_kernel_keeps_its_values_and_what_follows_is_mended(wide):
    torch.manual_seed(0)
    model, x = Permuted(wide).eval(), torch.randn(64, 3, 6, 6)
    calibration = calibrate(model, [x])

    def error(ratio, **options):
        with torch.no_grad():
            return (prune_model(model, x[:1], ratio, **options)(x) - model(x)).square().mean()

    assert error({"w": 0.5}, calibration=calibration) < error({"w": 0.5})
    assert error(0.5, refit=[x]) < error(0.5)
    assert error(0.5, calibration=calibration, importance="obs", refit=[x]) < error(0.5)


class Turned(nn.Module):
    """A residual stream that has the time first, between layers that have it second."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x):
        return x.transpose(0, 1) + self.down(F.relu(self.up(x))).transpose(0, 1)


def test_a_sum_of_transposed_rows_is_no_target():
    torch.manual_seed(0)
    model, x = Turned(), torch.randn(40, 5, 6)
    graph = trace(model, x[:1])
    keep = {"up": list(range(5))}
    small = pruned(model, graph, keep)
    refit(small, model, graph, keep, record(model, [x]), ridge=1e-10)
    with torch.no_grad():
        hidden = F.relu(small.up(x)).reshape(-1, 5)
        weight, bias = affine_fit(hidden, model.down(F.relu(model.up(x))).reshape(-1, 6))
    np.testing.assert_allclose(small.down.weight.detach(), weight, atol=1e-3)
    np.testing.assert_allclose(small.down.bias.detach(), bias, atol=1e-3)


class UpAndSkip(nn.Module):
    """A decoder's step: a transposed convolution with a norm, added to what was before."""

    def __init__(self):
        super().__init__()
        self.skip, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 2, stride=2)
        self.up, self.norm = nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.skip(x) + self.norm(self.up(F.relu(self.down(x)))))


@pytest.mark.parametrize("last", [False, True])
def test_channels_that_are_there_twice_leave_a_transposed_convolution_without_loss(last):
    torch.manual_seed(0)
    model, x = UpAndSkip(), torch.randn(64, 3, 6, 6)
    with torch.no_grad():
        for held in (model.down.weight, model.down.bias):
            held[4:] = held[:4]
        for _ in range(60):
            model(x)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    model.eval()
    calibration, ratio = calibrate(model, [x]), {"down": 0.5}
    first = {"importance": lambda group, weights: -torch.arange(group.size)}
    wanted, plain = model(x), prune_model(model, x, ratio, **first)(x)
    repaired = prune_model(model, x, ratio, calibration=calibration)(x)
    fitted = prune_model(model, x, ratio, calibration=calibration, refit=[x])(x)
    assert (plain - wanted).norm() > 0.1 * wanted.norm()
    assert (repaired - wanted).norm() < 5e-3 * wanted.norm()
    assert (fitted - wanted).norm() < 5e-3 * wanted.norm()
    alone = prune_model(model, x, ratio, **first, refit=[x])(x)
    assert (alone - wanted).norm() < 0.05 * wanted.norm()


def test_batches_of_different_lengths_count_as_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
    batches = [torch.randint(0, 50, (8, length)) for length in (5, 9, 7, 5)]
    graph = trace(model, batches[0][:1])
    name = next(group.name for group in graph.groups if group.size == 10)
    keep = {name: [0, 2, 3, 7]}
    small = pruned(model, graph, keep)
    reference = record(model, [(tokens, torch.zeros(8)) for tokens in batches], max_samples=30)
    assert [(part.samples, part.batch[0].shape[1]) for part in reference.parts] == [
        (14, 5),
        (8, 9),
        (8, 7),
    ]
    refit(small, model, graph, keep, reference, ridge=1e-10)
    tokens = torch.cat([batch.flatten() for batch in [*batches[:3], batches[3][:6]]])
    with torch.no_grad():
        weight, bias = affine_fit(small[:3](tokens), model(tokens))
    np.testing.assert_allclose(small[3].weight.detach(), weight, atol=1e-3)
    np.testing.assert_allclose(small[3].bias.detach(), bias, atol=1e-3)


def test_statistics_are_those_of_all_batches_whatever_their_sizes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False)
    )
    model.append(nn.BatchNorm2d(4)).append(nn.Conv2d(4, 2, 1))
    images = [torch.randn(4, 3, 6, 6), torch.randn(9, 3, 4, 4) + 1.0]
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias), norm.running_mean.normal_()
    model.eval()
    graph = trace(model, images[0][:1])
    keep = {"0": [0, 1, 4, 6, 7]}
    small = pruned(model, graph, keep)
    refit(small, model, graph, keep, record(model, images), ridge=1e-10)
    pixels = torch.cat([x.movedim(1, -1).reshape(-1, 3) for x in images])[..., None, None]
    with torch.no_grad():
        for place in (1, 4):
            values = small[:place](pixels).flatten(1)
            torch.testing.assert_close(small[place].running_mean, values.mean(0))
            torch.testing.assert_close(small[place].running_var, values.var(0, correction=0))
        hidden = small[:3](pixels).flatten(1)
        weight, bias = affine_fit(hidden, model[:5](pixels).flatten(1))
        expected = hidden.numpy() @ weight.T + bias
        np.testing.assert_allclose(small[:5](pixels).flatten(1), expected, atol=1e-3)


class Packed(nn.Module):
    """A recurrent network over sequences of their own lengths, as one packed batch."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(20, 6), nn.LSTM(6, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens):
        lengths = (tokens > 0).sum(1)
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True)
        return self.head(self.cell(packed)[1][0][-1])


def test_a_sum_with_a_part_of_the_rows_is_no_target():
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    targets = record(Packed(), [tokens]).targets
    assert {target.total for target in targets.values()} == {None}
    assert targets["cell.weight_ih_l0"].count == 7


def test_bad_input_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="at least one batch"):
        record(model, [])
    with pytest.raises(UsageError, match="ridge must be above 0"):
        refit(model, model, trace(model, torch.zeros(1, 2)), {}, None, ridge=0.0)
