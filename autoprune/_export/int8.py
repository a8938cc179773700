"""int8 files, compared with float32 ones."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoprune._export.exported import Exported
from autoprune.errors import UsageError
from autoprune.quantization import Measure, compared, saved, timed, twin_of
from autoprune.store import QuantizationSettings
from autoprune.tasks.base import Task


def export_int8(
    model: nn.Module,
    path: Path,
    task: Task,
    folder: Path,
    settings: QuantizationSettings,
    *,
    threads: int = 1,
    test: bool = False,
    measure: Measure | None = None,
) -> Exported:
    """Quantize the model, compare it with float32 in ONNX Runtime, and write the int8 file.

    What was found is written as `int8.json` in `folder`, the model's. `measure` as for `timed`.
    Raises ExportError where the model cannot be written or quantized.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"an int8 model is written as .onnx, got {path}")
    twin = twin_of(model, task, settings, threads)
    report = timed([twin], [compared(twin, task, settings, test=test)], measure)[0]
    done = saved(twin, report, path, folder)
    size, written = done.int8.file_bytes, twin.int8.written
    inputs = dict(zip(written.inputs, twin.int8.shapes, strict=True))
    return Exported(path, "onnx", written.exporter, twin.difference, size, done, inputs=inputs)
