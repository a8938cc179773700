"""The commands to copy that train a model in full and write it for its runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autoprune.architecture import INT8
from autoprune.config import RunConfig
from autoprune.printable import quoted

_OTHERS = ("openvino", "ncnn", "executorch", "litert")  # formats with the names of their runtimes
_FORMATS = {
    **dict.fromkeys(("torch", "torch-compile", "cuda", "cuda-graph"), "pt2"),
    **dict.fromkeys(("onnxruntime", "onnxruntime-cuda"), "onnx"),
    **{name: name for name in _OTHERS},
}


def retrain(run: str | Path) -> str:
    """The command that retrains a run's recommended model."""
    return f"autoprune retrain {quoted(run)} --epochs 20 --seeds 3"


def exports(path: str | Path, config: RunConfig, precision: str) -> Iterator[str]:
    """The commands that write a model for each runtime of a configuration; ONNX where it is int8.

    Behind an address models run in ONNX Runtime.
    """
    found = [_FORMATS.get(target.runtime, "onnx") for target in config.targets.values()]
    how = [f"--format {name}" for name in dict.fromkeys(found)]
    for option in ["--precision int8"] if precision == INT8 else how:
        yield f"autoprune export {quoted(path)} {option}"
