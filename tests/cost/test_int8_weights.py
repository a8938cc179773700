"""What an int8 file holds in int8, against the files that ONNX Runtime's quantizer writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.cost.int8_weights import int8_copies
from autoprune.cost.precisions import int8_cost
from autoprune.graph import trace
from autoprune.quantization import int8_for_timing


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Tied(nn.Module):
    """The matrix of the embedding is the head's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 32)
        self.inner = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.inner(self.words(x))), self.words.weight)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(100, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bag(x)))


STEPS = torch.zeros(2, 6, 16)
WORDS = torch.zeros(2, 6, dtype=torch.long)
IMAGE = torch.zeros(1, 3, 16, 16)
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), STEPS),
    "GRU": (lambda: Recurrent(nn.GRU), STEPS),
    "RNN": (lambda: Recurrent(nn.RNN), STEPS),
    "tied": (Tied, WORDS),
    "bag": (Bag, WORDS),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(4608, 4)
        ),
        IMAGE,
    ),
}
SIZES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT64: 8, onnx.TensorProto.INT32: 4}


@pytest.mark.parametrize("name", CASES)
def test_counted_are_the_bytes_of_the_file(name: str) -> None:
    build, example = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    proto = onnx.load_from_string(int8_for_timing(model, example).written.data)
    held = sum(
        int(np.prod(each.dims)) * SIZES.get(each.data_type, 1) for each in proto.graph.initializer
    )
    assert int8_cost(model, example).weight_bytes == pytest.approx(held, rel=0.08)


def test_recurrent_matrices_and_bags_stay_and_tied_ones_are_there_twice() -> None:
    lstm = int8_copies(trace(Recurrent(nn.LSTM).eval(), STEPS))
    assert lstm == {"rnn.weight_ih_l0": 0, "rnn.weight_hh_l0": 0, "head.weight": 1}
    assert int8_copies(trace(Tied().eval(), WORDS)) == {"words.weight": 2, "inner.weight": 1}
    assert int8_copies(trace(Bag().eval(), WORDS)) == {"bag.weight": 0, "head.weight": 1}
