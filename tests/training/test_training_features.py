"""Attention maps: of which layers, and their distance."""

import pytest
import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.graph import trace
from autoprune.training.features import attention_distance, feature_layers, recorded


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x).relu()


def test_residual_blocks_are_compared():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Residual(), Residual(), nn.Flatten())
    graph = trace(model, torch.zeros(1, 3, 4, 4))
    assert feature_layers(graph) == {block.name: 1 for block in graph.blocks}
    assert len(graph.blocks) == 2


def test_without_blocks_all_layers_with_weights_but_the_last():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )
    assert feature_layers(trace(model, torch.zeros(1, 3, 4, 4))) == {"0": 1, "2": 1}


class Mixing(nn.Module):
    """Mixes tokens, then channels, of (N, T, C); the stream is wider than there are tokens."""

    def __init__(self):
        super().__init__()
        self.tokens, self.channels = Branch(5, turned=True), Branch(7)

    def forward(self, x):
        return self.channels(self.tokens(x))


class Branch(nn.Module):
    def __init__(self, size, turned=False):
        super().__init__()
        self.linear, self.turned = nn.Linear(size, size), turned

    def forward(self, x):
        inner = x.transpose(1, 2) if self.turned else x
        found = self.linear(inner).relu()
        return x + (found.transpose(1, 2) if self.turned else found)


def test_channels_of_tokens_are_last_and_those_of_a_convolution_come_first():
    """Also where all widths are whole, and the shapes of both models are equal."""
    model = nn.Sequential(nn.Linear(3, 7), Mixing(), nn.Linear(7, 2))
    graph = trace(model, torch.zeros(1, 5, 3))
    assert feature_layers(graph) == {"1.tokens": 2, "1.channels": 2}
    mlp = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2))
    assert feature_layers(trace(mlp, torch.zeros(1, 5, 3))) == {"0": 2, "2": 2}
    assert feature_layers(trace(mlp, torch.zeros(1, 3))) == {}  # no positions
    frozen = graph.freeze({"0": "for a test"})  # nothing narrows the stream
    assert feature_layers(frozen) == {"1.channels": 2}
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    whole = trace(convolutions, torch.zeros(1, 3, 4, 4))
    assert feature_layers(whole.freeze({"0": "for a test"})) == {"0": 1}


def test_maps_of_tokens_sum_over_the_channels():
    """Of (1, T=2, C=2): energies (1, 0) against (0, 1) by tokens, both (1, 0) by channels."""
    one = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    other = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    assert attention_distance({"a": [one]}, {"a": [other]}, {"a": 2}).item() == 2.0
    assert attention_distance({"a": [one]}, {"a": [other]}, {"a": 1}).item() == 0.0


def test_outputs_are_recorded_at_each_call_and_only_inside():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with recorded(model, ["0", "not there"]) as found:
        model(torch.zeros(1, 2))
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert {name: len(outputs) for name, outputs in found.items()} == {"0": 2}
    assert torch.equal(found["0"][1], model[0](torch.ones(1, 2)))


def test_maps_have_no_channels_and_no_scale():
    torch.manual_seed(0)
    wide = torch.randn(2, 8, 5, 5)
    weights = torch.rand(8)[None, :, None, None]
    narrow = (wide.square().sum(1, keepdim=True) / 3.0).sqrt().expand(-1, 3, -1, -1)
    assert attention_distance({"a": [narrow]}, {"a": [wide]}, {"a": 1}).item() == pytest.approx(
        0, abs=1e-6
    )
    assert attention_distance({"a": [5 * wide]}, {"a": [wide]}, {"a": 1}).item() == pytest.approx(
        0, abs=1e-6
    )
    assert attention_distance({"a": [wide * weights]}, {"a": [wide]}, {"a": 1}).item() > 1e-4


def test_tokens_whose_last_size_differs_are_compared_over_their_positions():
    other = torch.zeros(1, 4, 6)
    other[0, 1] = 1.0  # all attention at another position
    one = torch.zeros(1, 4, 3)
    one[0, 2] = 1.0
    assert attention_distance({"a": [one]}, {"a": [other]}, {"a": 2}).item() == pytest.approx(2.0)


def test_the_distance_has_gradients_for_the_student():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    attention_distance({"a": [x]}, {"a": [torch.randn(2, 5, 4, 4)]}, {"a": 1}).backward()
    assert x.grad.abs().sum() > 0.0


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (3, 4, 4), (2, 3, 4, 4)])
def test_outputs_that_do_not_fit_are_left_out(shape):
    with pytest.raises(TaskError, match=r"recovery.features needs layers .* set it to 0"):
        attention_distance({"a": [torch.zeros(shape)]}, {"a": [torch.zeros(2, 4, 4)]}, {"a": 1})
