"""The size of int8 files that nothing was fitted to, against written ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.architecture import INT8
from autoprune.cost.model import CostModel
from autoprune.device.sampling import pruned, random_architectures
from autoprune.graph import trace
from autoprune.quantization import fit_int8_file, quantize
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task


class Images(Task):
    dense_epochs = 0

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))

    def example_input(self) -> Tensor:
        return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))

    def train_loader(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        shape = (8, *self.example_input().shape[1:])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return [(x, torch.arange(8) % 3)]

    def val_loader(self) -> list[tuple[Tensor, Tensor]]:
        return self.train_loader(100)

    def test_loader(self) -> list[tuple[Tensor, Tensor]]:
        return self.train_loader(101)


class Table(Images):
    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(48, 3))

    def example_input(self) -> Tensor:
        return torch.randn(1, 13, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", [Images(), Table()], ids=["convolutions", "linear layers"])
def test_unseen_prunings_have_the_size_that_is_predicted(task: Task) -> None:
    model = task.build_model().eval()
    graph = trace(model, task.example_input())
    fitted = fit_int8_file(model, graph, task)
    assert 0.0 <= fitted.margin < 0.03
    assert fitted.element == pytest.approx(1.0, abs=0.1)
    costs = CostModel(graph, file=fitted, precision=INT8)
    off = []
    for each in random_architectures(graph, 4, seed=7):
        written = quantize(pruned(model, graph, each), task, QuantizationSettings(samples=8))
        off.append(costs.cost(each).get("file_bytes") / len(written.int8.data) - 1.0)
    assert np.abs(off).max() < 0.03
