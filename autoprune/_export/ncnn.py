"""ncnn: a graph (.param) and its weights (.bin)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs, as_call, tensors
from autoprune.cost.onnx_export import input_names
from autoprune.cost.targets.ncnn import NcnnNet, computed, convert
from autoprune.errors import ExportError


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write both files by pnnx, with float32 weights.

    The batch is not in the files: ncnn takes it from its inputs, where each sample is on its own.
    Raises ExportError where the model computes with integers, such as a mask.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        files = convert(model, example_inputs, Path(folder))
        _check_integers(files.graph, example_inputs)
        net = NcnnNet(files, threads=1)
        files.graph.replace(path)
        files.weights.replace(path.with_suffix(".bin"))
    return "pnnx", net


def _check_integers(graph: Path, example_inputs: Inputs) -> None:
    given = tensors(as_call(example_inputs))
    integers = [place for place, each in enumerate(given) if not each.is_floating_point()]
    for place, layer in computed(graph, integers).items():
        name = input_names(example_inputs)[place]
        raise ExportError(
            f"ncnn takes integers for indices of embeddings only, and the model computes with "
            f"{name} ({given[place].dtype}, in {layer}) · give it as float32 in the example inputs"
        )
