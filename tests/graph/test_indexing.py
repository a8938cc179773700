"""Indexing by tensors, embeddings, packed sequences."""

from __future__ import annotations

import copy

import pytest
import torch
from models.cutting import gap, random_keep
from models.through import of_features, reason_of, units_of
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from autoprune.pruning.masks import masked
from autoprune.pruning.surgery import prune
from autoprune.pruning.verification import prunable

ORDER = torch.tensor([3, 1, 0])


def test_rows_by_index_pass_channels_on() -> None:
    assert units_of(of_features(lambda x: x[:, ORDER])) == 8
    assert units_of(of_features(lambda x: x.index_select(1, ORDER))) == 8


def test_channels_by_index_are_not_prunable() -> None:
    assert units_of(of_features(lambda x: x[..., ORDER])) == 0
    graph = of_features(lambda x: x.index_select(-1, ORDER))
    assert units_of(graph) == 0
    assert reason_of(graph) == "is indexed by position"


def test_values_that_are_put_meet_what_they_replace() -> None:
    def put(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, ORDER] = x[:, :3].relu()
        return y

    assert units_of(of_features(put)) == 8


class Pillars(nn.Module):
    """Features of points are placed on a map, as in PointPillars (Lang et al. 2019)."""

    def __init__(self, *, channels_first: bool) -> None:
        super().__init__()
        self.channels_first, self.channels = channels_first, 8
        self.points, self.head = nn.Linear(4, 8), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = self.points(x).amax(1)
        if self.channels_first:
            flat = torch.zeros(self.channels, 16, dtype=x.dtype)
            flat[:, places[:, 0] * 4 + places[:, 1]] = x.t()
            return self.head(flat.view(1, self.channels, 4, 4))
        canvas = x.new_zeros(1, x.shape[1], 4, 4)
        canvas[torch.zeros_like(places[:, 0]), :, places[:, 0], places[:, 1]] = x
        return self.head(canvas)


@pytest.mark.parametrize("channels_first", [True, False])
def test_features_that_are_scattered_to_places_pass_channels_on(channels_first: bool) -> None:
    torch.manual_seed(0)
    model, x = Pillars(channels_first=channels_first), torch.randn(3, 5, 4)
    places = torch.tensor([[0, 1], [2, 2], [3, 0]])
    graph = prunable(model, (x, places))
    assert graph.sizes() == {"points": 8}
    small, keep = copy.deepcopy(model), random_keep(graph, 0)
    prune(small, graph, keep)
    torch.testing.assert_close(small(x, places), masked(model, graph, keep)(x, places))


def test_values_meet_the_rows_that_a_mask_leaves() -> None:
    def put(x: Tensor) -> Tensor:
        y = x.clone()
        y[torch.arange(10).view(2, 5) % 3 == 0] = x[:, :2].relu().flatten(0, 1)
        return y

    assert units_of(of_features(put)) == 8


def test_columns_of_an_embedding_are_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 5)).eval()
    x = torch.randint(0, 9, (2, 6))
    graph = prunable(model, x)
    assert graph.sizes() == {"0": 8}
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm = nn.Linear(6, 8), nn.LSTM(8, 7, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.a(x), torch.tensor([5, 3]), batch_first=True)
        out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(out)


def test_packed_sequences_pass_features_on() -> None:
    torch.manual_seed(0)
    model, x = Packed().eval(), torch.randn(2, 5, 6)
    graph = prunable(model, x)
    assert units_of(graph, "a") == 8
    assert 7 in graph.sizes().values()
    assert gap(model, graph, random_keep(graph, 0), x, train=False) < 1e-9
