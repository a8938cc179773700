"""OpenVINO on this machine's processor."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.cost.inputs import Inputs
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.targets.base import LocalTarget, require
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError, first_line

_NO_WEIGHTS = b""  # they are in the ONNX file


class OpenVino(LocalTarget):
    """OpenVINO's CPU plugin in float32, one stream, as for the lowest latency."""

    packages = ("openvino",)

    def check(self) -> None:
        """Needs the package `openvino`."""
        require("openvino", "openvino")

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A request of the compiled model that reads the inputs where they are."""
        import openvino

        written = to_onnx(model, example_inputs)
        feed = written.feed(example_inputs)
        try:
            request = compiled_for(read_graph(written.data), threads).create_infer_request()
            for name, array in feed.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            request.infer(share_outputs=True)
        except RuntimeError as error:
            raise DeviceError(
                f"runtime 'openvino' cannot run {type(model).__name__} ({first_line(error)}) · "
                "measure it in another runtime"
            ) from error
        return lambda: request.infer(share_outputs=True)


def read_graph(model: bytes | Path) -> Any:
    """An `openvino.Model` of the bytes of an ONNX file, or of a file with its weights beside it.

    Not by `openvino.convert_model`, which sends statistics of its use over the network.
    """
    if isinstance(model, bytes):
        return _core().read_model(model, _NO_WEIGHTS)
    return _core().read_model(model)


def compiled_for(graph: Any, threads: int) -> Any:
    """The model compiled for a number of threads. Raises DeviceError where it gets others.

    The operating system places the threads, as in the other runtimes: pinned to a core, they wait
    for whatever else runs there.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",  # the default is float16 or bfloat16 on some processors
    }
    compiled = _core().compile_model(graph, "CPU", options)
    given = compiled.get_property("INFERENCE_NUM_THREADS")
    if given != threads:
        raise DeviceError(f"openvino must use {threads} threads, got {given}")
    return compiled


def save_graph(graph: Any, path: Path) -> None:
    """Write `path` (.xml) and the weights beside it (.bin), in float32."""
    import openvino

    openvino.save_model(graph, path, compress_to_fp16=False)


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()
