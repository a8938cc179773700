"""ncnn: a graph (.param) and its weights (.bin)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs
from autoprune.cost.targets.ncnn import NcnnNet, convert


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write both files by pnnx, with float32 weights.

    The batch is not in the files: ncnn takes it from its inputs, where each sample is on its own.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        files = convert(model, example_inputs, Path(folder))
        net = NcnnNet(files, threads=1)
        files.graph.replace(path)
        files.weights.replace(path.with_suffix(".bin"))
    return "pnnx", net
