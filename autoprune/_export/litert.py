"""LiteRT's models (.tflite)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs, batch_size
from autoprune.cost.targets.litert import LoadedModel, convert
from autoprune.errors import ExportError, first_line


def write(
    model: nn.Module, path: Path, example_inputs: Inputs, dynamic_batch: bool
) -> tuple[str, Runner]:
    """Write the model for the shapes of the example inputs.

    LiteRT changes the shapes of inputs when a model is loaded, and with them what follows, except
    where the model reshapes to a known size.
    """
    converted = convert([model], example_inputs)
    path.write_bytes(converted.models[0])
    try:
        loaded = LoadedModel(path.read_bytes(), threads=1)
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"LiteRT cannot load the written model ({first_line(error)}) · export it as onnx"
        ) from error
    batch = batch_size(example_inputs)

    def run(inputs: Inputs) -> list[Tensor]:
        try:
            return loaded(inputs)
        except (RuntimeError, ValueError) as error:
            if batch_size(inputs) == batch:
                raise
            raise ExportError(
                f"its reshapes are for a batch of {batch} · export it without a dynamic batch, for "
                "example inputs of the batch that you need"
            ) from error

    return converted.converter, run
