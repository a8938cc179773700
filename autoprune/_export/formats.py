"""The formats in which a model can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from autoprune._export import coreml, executorch, litert, ncnn, onnx, openvino, pt2
from autoprune._export.agreement import Runner
from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import EXPORTERS
from autoprune.cost.targets import RUNTIMES
from autoprune.errors import ConfigError

Writer = Callable[[nn.Module, Path, Inputs, bool], tuple[str, Runner]]
"""Writes a model in eval mode to a path (example inputs, dynamic batch).

Gives back the exporter's name and the loaded file to run; raises ExportError.
"""


@dataclass(frozen=True, slots=True)
class Format:
    """How a model is written in one format.

    `file` is the default name. `weights` is the ending of a second file with the weights, which
    lies beside the first; a `folder` is one with files of its own. `needs` raises DeviceError, with
    the remedy, where what writes and loads the file is not installed. `runs` is whether the file
    is run here, or only what it was written from. `otherwise` is another way to write, slower, for
    where the file of `write` does not agree with the model.
    """

    write: Writer
    file: str
    weights: str | None = None
    folder: bool = False
    needs: Callable[[], None] | None = None
    runs: bool = True
    otherwise: Writer | None = None

    @property
    def ending(self) -> str:
        """The ending of the file."""
        return Path(self.file).suffix

    def check(self) -> None:
        """Raise DeviceError, with the remedy, where what loads the file is not installed."""
        if self.needs is not None:
            self.needs()

    def weights_of(self, path: Path) -> Path | None:
        """Where the weights of a file are, if not inside it."""
        return path.with_suffix(self.weights) if self.weights else None


_SLOWER = EXPORTERS[1:]  # it follows sizes of the batch that the first takes for constants
FORMATS: Mapping[str, Format] = {
    "onnx": Format(onnx.write, "model.onnx", otherwise=partial(onnx.write, exporters=_SLOWER)),
    "pt2": Format(pt2.write, "model.pt2"),
    "openvino": Format(
        openvino.write,
        "model.xml",
        weights=".bin",
        needs=RUNTIMES["openvino"].check,
        otherwise=partial(openvino.write, exporters=_SLOWER),
    ),
    "ncnn": Format(ncnn.write, "model.ncnn.param", weights=".bin", needs=RUNTIMES["ncnn"].check),
    "executorch": Format(executorch.write, "model.pte", needs=RUNTIMES["executorch"].check),
    "litert": Format(litert.write, "model.tflite", needs=RUNTIMES["litert"].check),
    "coreml": Format(coreml.write, "model.mlpackage", folder=True, needs=coreml.check, runs=False),
}
"""Name → format."""


def format_of(path: Path, name: str | None = None) -> str:
    """The name of a file's format: the given one, or what the path's ending says.

    Raises ConfigError where it is unknown, the ending is another format's, or it is not that of a
    format that has several files.
    """
    endings = {form.ending: known for known, form in FORMATS.items()}
    name = name or endings.get(path.suffix, path.suffix.removeprefix("."))
    if name not in FORMATS:
        raise ConfigError(
            f"format must be one of {', '.join(FORMATS)}, packed, got {name!r} for {path} · or one "
            f"of the endings {', '.join(endings)}, .packed"
        )
    form = FORMATS[name]
    if endings.get(path.suffix, name) != name:
        raise ConfigError(
            f"{path} ends as a file of format {endings[path.suffix]} does, got format {name} · end "
            f"it with {form.ending}, or leave out the format"
        )
    if form.weights and path.suffix != form.ending:
        raise ConfigError(
            f"a file of format {name} must end with {form.ending} (its weights lie beside it, as "
            f"{form.weights}), got {path}"
        )
    if form.folder and path.suffix != form.ending:
        raise ConfigError(f"a folder of format {name} must end with {form.ending}, got {path}")
    return name
