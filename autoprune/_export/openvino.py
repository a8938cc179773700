"""OpenVINO's intermediate representation: a graph (.xml) and its weights (.bin)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import EXPORTERS, to_onnx
from autoprune.cost.targets.openvino import compiled_for, read_graph, save_graph
from autoprune.errors import ExportError, first_line


def write(
    model: nn.Module,
    path: Path,
    example_inputs: Inputs,
    dynamic_batch: bool,
    *,
    exporters: Sequence[str] = EXPORTERS,
) -> tuple[str, Runner]:
    """Write both files from ONNX, with float32 weights."""
    written = to_onnx(model, example_inputs, dynamic_batch=dynamic_batch, exporters=exporters)
    try:
        save_graph(read_graph(written.data), path)
        request = compiled_for(read_graph(path), threads=1).create_infer_request()
    except RuntimeError as error:
        raise ExportError(
            f"the model cannot be written for OpenVINO ({first_line(error)}) · export it as onnx"
        ) from error

    def run(inputs: Inputs) -> list[Tensor]:
        found = request.infer(written.feed(inputs))
        return [torch.from_numpy(found[output]) for output in request.model_outputs]

    return f"openvino, from onnx by {written.exporter}", run
