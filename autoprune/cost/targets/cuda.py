"""The runtimes of an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved
from autoprune.cost.onnx_export import OnnxModel
from autoprune.cost.targets.base import LocalTarget
from autoprune.cost.targets.local import OnnxRuntime
from autoprune.cost.timing import Call, ClockedCall
from autoprune.errors import DeviceError, first_line

_WARM = 3  # passes before a capture: libraries are loaded and kernels chosen


class EventClock(ClockedCall):
    """Work on the current stream, timed between two of the GPU's own events."""

    def __init__(self, work: Call) -> None:
        self._work = work
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def __call__(self) -> float:
        """Milliseconds from when the device is free to when it has finished the work."""
        torch.cuda.synchronize()
        self._start.record()
        self._work()
        self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))


class EagerCuda(LocalTarget):
    """PyTorch as it is, on the current GPU, in inference mode."""

    def check(self) -> None:
        """Needs a GPU, its driver, and a PyTorch that was built for it."""
        if torch.version.cuda is None:
            raise DeviceError(
                f"a cuda runtime needs a PyTorch built for CUDA, and {torch.__version__} is not "
                "· pip install torch --index-url https://download.pytorch.org/whl/cu128"
            )
        if not torch.cuda.is_available():
            raise DeviceError(
                "a cuda runtime needs a GPU, and PyTorch finds none · see what nvidia-smi says"
            )

    def device_name(self) -> str:
        """The GPU's name."""
        return gpu_name()

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A copy on the GPU, called with the example inputs that are there already."""
        return EventClock(_on_gpu(model, example_inputs))

    def peak_memory(self, model: nn.Module, example_inputs: Inputs, threads: int) -> int | None:
        """The peak of PyTorch's allocator, with workspaces, above the level before."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call = self.prepare(model, example_inputs, threads)
        with self.pinned(threads):
            call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Inference mode."""
        with torch.inference_mode():
            yield


class CudaGraph(EagerCuda):
    """The same work captured once as a CUDA graph and replayed: no launches from Python."""

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """Warm up on a side stream, as capturing demands, and capture."""
        work = _on_gpu(model, example_inputs)
        try:
            with torch.inference_mode():
                return _Replay(work)
        except RuntimeError as error:
            raise DeviceError(
                f"runtime 'cuda-graph' cannot capture {type(model).__name__} "
                f"({first_line(error)}) · measure it in 'cuda'"
            ) from error


class _Replay(EventClock):
    def __init__(self, work: Call) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                work()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        self._eager = work  # holds the weights and inputs that the graph reads
        with torch.cuda.graph(self._graph):
            self._outputs = work()
        super().__init__(self._graph.replay)


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime's CUDA provider; inputs and outputs stay on the GPU."""

    packages = ("onnxruntime-gpu",)
    provider = "CUDAExecutionProvider"

    def check(self) -> None:
        """Needs the package `onnxruntime-gpu`, with the libraries it was built for."""
        super().check()
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            raise DeviceError(
                "runtime 'onnxruntime-cuda' needs the CUDA provider, and this onnxruntime has "
                f"{', '.join(onnxruntime.get_available_providers())} "
                "· pip uninstall onnxruntime && pip install onnxruntime-gpu"
            )

    def device_name(self) -> str:
        """The GPU's name."""
        return gpu_name()

    def peak_memory(self, model: nn.Module, example_inputs: Inputs, threads: int) -> int | None:
        """None: ONNX Runtime's CUDA arena does not report it."""
        return None

    def call_of(self, written: OnnxModel, example_inputs: Inputs, threads: int) -> Call:
        """A session with everything bound on the GPU; a run returns when its outputs are there."""
        import onnxruntime

        session = self.session(written, threads)
        if session.get_providers()[0] != self.provider:
            raise DeviceError(
                "runtime 'onnxruntime-cuda' fell back to the CPU: its CUDA or cuDNN libraries do "
                "not load · pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        binding: Any = session.io_binding()
        for name, array in written.feed(example_inputs).items():
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            )
        for output in session.get_outputs():
            binding.bind_output(output.name, "cuda", 0)

        def work() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return work


def gpu_name() -> str:
    """The name of the first GPU, from PyTorch or the driver."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "unknown GPU"


def _on_gpu(model: nn.Module, example_inputs: Inputs) -> Call:
    small = frozen_copy(model, "cuda")
    args, kwargs = as_call(moved(example_inputs, "cuda"))
    return lambda: small(*args, **kwargs)
