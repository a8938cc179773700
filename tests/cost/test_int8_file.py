"""What takes bytes in an int8 file, by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.architecture import INT8, Architecture
from autoprune.cost.file_size import FileSize
from autoprune.cost.int8_file import Int8File, Int8Parts
from autoprune.cost.model import CostModel
from autoprune.cost.sizes import Sizes
from autoprune.graph import PruningGraph, trace

FILE = Int8File(fixed=100.0, element=1.0, channel=8.0, operator=50.0, margin=0.01)


def graph() -> PruningGraph:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    return trace(model.eval(), torch.zeros(1, 3, 6, 6))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def test_elements_channels_and_operators_are_counted() -> None:
    made = graph()
    names = [op.name for op in made.ops]  # a view, and the transpose of the weight, too
    assert names == ["convolution", "relu", "view", "t", "addmm"]
    found = Int8Parts(made, Sizes(made.columns())).of(np.array([[8], [3]]))
    assert found.tolist() == [
        [1.0, 8 * 27 + 5 * 128, 8 + 5, 5.0],
        [1.0, 3 * 27 + 5 * 48, 3 + 5, 5.0],
    ]
    assert FILE.of(found).tolist() == [
        100.0 + (216 + 640) + 8 * 13 + 50 * 5,
        100.0 + (81 + 240) + 8 * 8 + 50 * 5,
    ]


def test_what_is_in_a_dropped_block_takes_no_bytes() -> None:
    made = trace(nn.Sequential(Residual(), nn.Linear(4, 2)).eval(), torch.zeros(1, 4))
    columns = list(made.columns())
    there = np.array([[made.columns()[name] for name in columns]])
    gone = np.array([[0 if name.startswith("block:") else n for name, n in made.columns().items()]])
    whole, rest = (Int8Parts(made, Sizes(columns)).of(each)[0] for each in (there, gone))
    assert (whole[1], whole[2]) == (2 * 32 + 8, 8 + 4 + 2)
    assert (rest[1], rest[2]) == (8, 2)
    assert rest[3] < whole[3]


def test_a_cost_model_of_int8_has_the_size_of_the_file_and_patterns_change_nothing() -> None:
    made = graph()
    costs = CostModel(made, file=FILE, precision=INT8)
    size = 100 + (81 + 240) + 8 * 8 + 50 * 5
    assert costs.cost(Architecture({"0": 3}, precision=INT8)).file_bytes == size
    sparse = Architecture({"0": 3}, patterns={"3.weight": "2:4"}, precision=INT8)
    assert costs.cost(sparse, ["file_bytes"]).file_bytes == size
    packed = CostModel(made, file=FileSize(0.0, 0.5)).cost(sparse, ["file_bytes"]).file_bytes
    assert packed != size
