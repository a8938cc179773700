"""The archive of `torch.export`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from models.keywords import INPUTS, TwoByName
from models.residual import Chain
from models.zoo import settled
from torch import Tensor, nn

from autoprune._export.pt2 import write
from autoprune.architecture import Architecture
from autoprune.errors import ExportError
from autoprune.graph import trace
from autoprune.pruning.build import build


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.numpy())) if x.numpy().any() else x


def test_a_model_that_cannot_be_written_is_one_line_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        write(Sorted(), tmp_path / "x.pt2", torch.ones(1, 3), False)
    assert str(caught.value).startswith("the model cannot be written as pt2 (")
    assert "\n" not in str(caught.value)


def test_the_loaded_file_runs_on_tensors_tuples_and_keywords(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TwoByName().eval()
        exporter, run = write(model, tmp_path / "x.pt2", INPUTS, False)
    assert exporter == "torch.export"
    with torch.no_grad():
        expected = model(**INPUTS)
    for found, name in zip(run(INPUTS), expected, strict=True):
        torch.testing.assert_close(found, expected[name])
    assert not any(tensor.requires_grad for tensor in run(INPUTS))


@pytest.mark.parametrize("free", [False, True])
def test_only_a_free_batch_takes_another_size(tmp_path: Path, free: bool) -> None:
    model = nn.Linear(3, 2).eval()
    _, run = write(model, tmp_path / "x.pt2", torch.zeros(2, 3), free)
    x = torch.rand(5, 3)
    if free:
        torch.testing.assert_close(run(x)[0], model(x).detach())
    else:
        with pytest.raises((RuntimeError, AssertionError), match="2"):
            run(x)


@pytest.mark.parametrize("free", [False, True])
def test_a_model_without_blocks_is_written_and_agrees(tmp_path: Path, free: bool) -> None:
    torch.manual_seed(0)
    model, x = settled(Chain()).eval(), torch.randn(2, 3, 9, 9)
    small = build(model, trace(model, x), Architecture(dropped=["blocks.1"])).model
    wanted = model.without(["blocks.1"])
    _, run = write(small, tmp_path / "x.pt2", x, free)
    for images in (x, torch.randn(5, 3, 9, 9)) if free else (x,):
        torch.testing.assert_close(run(images)[0], wanted(images).detach())
    program = torch.export.load(tmp_path / "x.pt2")
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in call for call in calls) == 1 + 2 * 2
    assert sum("aten.add.Tensor" in call for call in calls) == 2
    assert not any(name.startswith("blocks.1.") for name in program.state_dict)


class Pooled(nn.Module):
    """A branch that begins and ends with a function."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        x = self.enter(x)
        small = nn.functional.max_pool2d(x, 2)
        return x + nn.functional.interpolate(self.inner(small), scale_factor=2.0)


@pytest.mark.parametrize("free", [False, True])
def test_nothing_of_a_dropped_branch_is_in_the_file(tmp_path: Path, free: bool) -> None:
    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    (block,) = graph.blocks
    small = build(model, graph, Architecture(dropped=[block.name])).model
    _, run = write(small, tmp_path / "x.pt2", x, free)
    torch.testing.assert_close(run(x)[0], model.enter(x).detach())
    program = torch.export.load(tmp_path / "x.pt2")
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert not any("pool" in call for call in calls)
    assert sum("conv2d" in call for call in calls) == 1
    assert any("add" in call for call in calls)  # what it writes to the buffer stays
