"""ExecuTorch's programs (.pte), for XNNPACK."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs, as_call, tensors
from autoprune.cost.targets.executorch import LoadedProgram, lower
from autoprune.errors import ExportError, first_line


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write the program; a free batch has an upper bound (see `lower`)."""
    path.write_bytes(lower(model, example_inputs, dynamic_batch=dynamic_batch))
    try:
        program = LoadedProgram(path)
    except RuntimeError as error:
        raise ExportError(
            f"ExecuTorch cannot load the written program ({first_line(error)}) · export it as onnx"
        ) from error

    def run(inputs: Inputs) -> list[Tensor]:
        return program.run([tensor.contiguous() for tensor in tensors(as_call(inputs))])

    return "executorch with xnnpack", run
