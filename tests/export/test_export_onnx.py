"""ONNX, loaded again in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.keywords import INPUTS, TwoByName
from torch import nn

from autoprune._export.onnx import write


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
