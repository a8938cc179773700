"""ONNX, loaded again in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from models.keywords import INPUTS, TwoByName
from models.residual import Chain
from models.zoo import settled
from torch import nn

from autoprune._export.onnx import write
from autoprune.architecture import Architecture
from autoprune.graph import trace
from autoprune.pruning.build import build


def test_the_loaded_file_gives_the_outputs_in_the_models_order(tmp_path: Path) -> None:
    model = TwoByName().eval()
    exporter, run = write(model, tmp_path / "x.onnx", INPUTS, False)
    assert exporter in ("torchscript", "dynamo")
    assert (tmp_path / "x.onnx").stat().st_size > 100
    with torch.no_grad():
        expected = model(**INPUTS)
    for found, name in zip(run(INPUTS), expected, strict=True):
        torch.testing.assert_close(found, expected[name])


@pytest.mark.parametrize("free", [False, True])
def test_only_a_free_batch_takes_another_size(tmp_path: Path, free: bool) -> None:
    model = nn.Linear(3, 2).eval()
    _, run = write(model, tmp_path / "x.onnx", torch.zeros(2, 3), free)
    x = torch.rand(5, 3)
    if free:
        torch.testing.assert_close(run(x)[0], model(x).detach())
    else:
        with pytest.raises(Exception, match="Got: 5 Expected: 2"):
            run(x)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_nothing_of_a_dropped_block_is_in_the_graph(tmp_path: Path, exporter: str) -> None:
    """Of three blocks one remains: 1 + 2 convolutions, and one sum; no zeros, no masks."""
    torch.manual_seed(0)
    model, x = settled(Chain()).eval(), torch.randn(2, 3, 9, 9)
    dropped = ["blocks.0", "blocks.2"]
    small = build(model, trace(model, x), Architecture(dropped=dropped)).model
    wanted = model.without(dropped)
    files = {}
    for name, net in (("small", small), ("wanted", wanted)):
        file = tmp_path / f"{name}.onnx"
        _, run = write(net, file, x, False, exporters=[exporter])
        torch.testing.assert_close(run(x)[0], wanted(x).detach(), rtol=1e-4, atol=1e-5)
        files[name] = onnx.load(file).graph
    nodes = {name: Counter(node.op_type for node in graph.node) for name, graph in files.items()}
    assert (nodes["small"]["Conv"], nodes["small"]["Add"]) == (3, 1)
    assert nodes["small"] == nodes["wanted"]
    assert not {"Mul", "Where", "Sub", "ConstantOfShape"} & nodes["small"].keys()
    shapes = {
        name: sorted(tuple(it.dims) for it in graph.initializer if len(it.dims) > 1)
        for name, graph in files.items()
    }
    filters = [shape for shape in shapes["small"] if len(shape) == 4]
    assert filters == [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3)]
    assert shapes["small"] == shapes["wanted"]
