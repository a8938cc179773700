"""Recurrent layers and attention modules of torch, whose sizes must agree."""

from __future__ import annotations

import pytest
import torch
from models.cutting import gap, random_keep
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable


class Last(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.a, self.layer = nn.Linear(5, 8), layer
        both = 2 if layer.bidirectional else 1
        self.head = nn.Linear(both * (layer.proj_size or layer.hidden_size), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.a(x))[0])


RECURRENT = {
    "rnn": (nn.RNN(8, 10, batch_first=True), {8, 10}),
    "gru of two layers": (nn.GRU(8, 10, 2, batch_first=True), {8, 10}),
    "lstm both ways": (nn.LSTM(8, 10, batch_first=True, bidirectional=True), {8, 10}),
    "lstm with projection": (nn.LSTM(8, 10, batch_first=True, proj_size=6), {8, 6}),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_one_hidden_size_for_all_layers_and_directions(name: str) -> None:
    layer, sizes = RECURRENT[name]
    torch.manual_seed(0)
    model, x = Last(layer).eval(), torch.randn(2, 6, 5)
    graph = prunable(model, x)
    assert set(graph.sizes().values()) == sizes
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


def test_a_cell_in_a_loop_is_pruned_with_its_state() -> None:
    torch.manual_seed(0)
    model, x = Cell().eval(), torch.randn(2, 4, 5)
    graph = prunable(model, x)
    assert list(graph.sizes().values()) == [8]
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.attention = nn.Linear(5, 12), nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_the_heads_of_a_multihead_attention_are_units() -> None:
    torch.manual_seed(0)
    model, x = SelfAttention().eval(), torch.randn(2, 6, 5)
    graph = prunable(model, x)
    assert 4 in graph.sizes().values()
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9


@pytest.mark.parametrize(("slopes", "left"), [(8, 3), (1, 1)])
def test_a_slope_for_each_channel_is_counted(slopes: int, left: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.PReLU(slopes), nn.Linear(8, 3)).eval()
    graph = prunable(model, torch.randn(2, 5))
    prune(model, graph, {"0": [0, 3, 4]})
    assert (model[1].num_parameters, len(model[1].weight)) == (left, left)


class Read(nn.Module):
    """The weights of layers that are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Conv2d(8, 6, 1)
        self.c, self.d = nn.ConvTranspose2d(6, 4, 1), nn.Linear(4, 3)
        self.words = nn.Embedding(2, 4)
        self.register_buffer("mask", (torch.rand(8, 5) > 0.3).float())

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.a.weight * self.get_buffer("mask"), self.a.bias)[..., None, None]
        x = F.conv2d(x.relu(), self.b.weight * 2.0, self.b.bias)
        x = F.conv_transpose2d(x.relu(), self.c.weight * 2.0, self.c.bias)
        return self.d(x.flatten(1)[:, None] + self.words.weight)


def test_layers_that_are_not_called_know_their_sizes() -> None:
    torch.manual_seed(0)
    model = Read().eval()
    graph = prunable(model, torch.randn(2, 5))
    assert graph.sizes() == {"a": 8, "b": 6, "c": 4}
    prune(model, graph, {"a": [0, 3, 4], "b": [1, 2, 3, 4], "c": [0, 1]})
    assert (model.a.in_features, model.a.out_features) == (5, 3)
    assert (model.b.in_channels, model.b.out_channels) == (3, 4)
    assert (model.c.in_channels, model.c.out_channels) == (4, 2)
    assert (model.d.in_features, model.words.embedding_dim) == (2, 2)
