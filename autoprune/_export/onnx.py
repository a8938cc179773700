"""ONNX, loaded again in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import EXPORTERS, to_onnx


def write(
    model: nn.Module,
    path: Path,
    example_inputs: Inputs,
    dynamic_batch: bool,
    *,
    exporters: Sequence[str] = EXPORTERS,
) -> tuple[str, Runner]:
    """Write by the first of torch's exporters that succeeds; the file is loaded when it first runs.

    What ONNX Runtime raises then passes through.
    """
    import onnxruntime

    written = to_onnx(model, example_inputs, dynamic_batch=dynamic_batch, exporters=exporters)
    path.write_bytes(written.data)

    @cache
    def session() -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it would print is raised, too
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session().run(None, written.feed(inputs))]

    return written.exporter, run
