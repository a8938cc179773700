"""ONNX, loaded again in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import to_onnx


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write by whichever of torch's exporters succeeds."""
    import onnxruntime

    written = to_onnx(model, example_inputs, dynamic_batch=dynamic_batch)
    path.write_bytes(written.data)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, written.feed(inputs))]

    return written.exporter, run
