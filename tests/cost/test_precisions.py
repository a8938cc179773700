import numpy as np
import pytest
import torch
from torch import nn

from autoprune.architecture import BLOCK, FLOAT32, IN_FLOAT, INT8, Architecture
from autoprune.cost.model import CostModel
from autoprune.cost.precisions import PrecisionCosts, int8_cost
from autoprune.graph import trace
from autoprune.pruning.build import build


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    ).eval()


X = torch.zeros(1, 3, 6, 6)


def test_bytes_of_int8_are_one_an_element_and_a_scale_a_channel(model: nn.Module) -> None:
    weights = (8 * 3 * 9 + 4 * 8) + (5 * 128 + 4 * 5)
    vectors = 4 * (8 + 5) + 4 * 4 * 8 + 8  # biases, batch normalization, its counter
    cost = int8_cost(model, X)
    assert cost.weight_bytes == weights + vectors
    # the image in float32; what is normalized and what was, at 8 channels of 4x4, one byte each
    assert cost.peak_memory_bytes == cost.weight_bytes + 4 * 108 + 2 * 128


def test_predicted_bytes_of_int8_are_those_of_the_pruned_model(model: nn.Module) -> None:
    graph = trace(model, X)
    name = graph.groups[0].name
    small = build(model, graph, Architecture({name: 3}), kept_indices={name: range(3)}).model
    costs = PrecisionCosts({FLOAT32: CostModel(graph), INT8: CostModel(graph, precision=INT8)})
    predicted = costs.cost(Architecture({name: 3}, precision=INT8))
    assert predicted.weight_bytes == int8_cost(small, X).weight_bytes
    assert predicted.macs == int8_cost(small, X).macs
    assert predicted.peak_memory_bytes == int8_cost(small, X).peak_memory_bytes


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize("precisions", [(FLOAT32,), (FLOAT32, INT8)])
def test_blocks_that_are_no_items_are_there(precisions: tuple[str, ...]) -> None:
    graph = trace(nn.Sequential(Residual(), Residual(), nn.Linear(4, 2)).eval(), torch.zeros(1, 4))
    models = {each: CostModel(graph, precision=each) for each in precisions}
    costs = PrecisionCosts(models)
    extra = [IN_FLOAT] if INT8 in models else []
    whole = [*graph.columns(), *extra]
    assert costs.prices_of(whole) == costs.prices
    blocks = [name for name in whole if name.startswith(BLOCK)]
    assert len(blocks) == 2
    items = [name for name in whole if name != blocks[0]]
    dense = list(graph.columns().values()) + [1] * len(extra)
    row = dict(zip(whole, dense, strict=True))
    row[blocks[1]] = 0
    found = costs.prices_of(items)(np.array([[row[name] for name in items]]), ("macs",))
    wanted = costs.prices(np.array([list(row.values())]), ("macs",))
    assert found["macs"].tolist() == wanted["macs"].tolist() == [2 * 4 * 8 + 4 * 2]


def test_many_prices_are_those_of_each_candidate_in_its_precision(model: nn.Module) -> None:
    graph = trace(model, X)
    costs = PrecisionCosts({FLOAT32: CostModel(graph), INT8: CostModel(graph, precision=INT8)})
    name = graph.groups[0].name
    rows = [(8, FLOAT32), (8, INT8), (2, INT8), (2, FLOAT32)]
    counts = np.array([[width, int(precision == FLOAT32)] for width, precision in rows])
    found = costs.prices(counts, ("weight_bytes", "macs"))
    for field, values in found.items():
        each = [costs.cost(Architecture({name: w}, precision=p)).get(field) for w, p in rows]
        assert values.tolist() == each
