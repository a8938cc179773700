"""The runtimes of this machine's processor."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved
from autoprune.cost.onnx_export import OnnxModel, to_onnx
from autoprune.cost.onnx_prunings import onnx_of_prunings
from autoprune.cost.targets.base import LocalTarget
from autoprune.cost.targets.memory import allocated_bytes, held_bytes, session_bytes, unequal
from autoprune.cost.targets.on_device import CPU, open_session
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError

_LARGEST_MAPPED = 31 << 20  # bytes


class EagerTorch(LocalTarget):
    """Eager PyTorch on the CPU, in inference mode."""

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A copy of the model, called with the example inputs."""
        small = frozen_copy(model)
        args, kwargs = as_call(moved(example_inputs, "cpu"))
        return lambda: small(*args, **kwargs)

    def peak_memory(self, model: nn.Module, example_inputs: Inputs, threads: int) -> int | None:
        """Weights, inputs, and the peak of the CPU's allocator during one pass."""
        call = self.prepare(model, example_inputs, threads)
        with self.pinned(threads):
            call()  # what is made once, such as chosen kernels, is not counted
            return held_bytes(model, example_inputs) + allocated_bytes(call)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Inference mode, and intra-operator threads set; the number before comes back."""
        _keep_heap()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


class OnnxRuntime(LocalTarget):
    """ONNX Runtime's CPU provider with all graph optimizations."""

    packages = ("onnxruntime",)
    provider = CPU

    def check(self) -> None:
        """Needs the package `onnxruntime`."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise DeviceError("runtime 'onnxruntime' is not installed · pip install onnxruntime")

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A session of the exported model; the threads are the session's own."""
        return self.call_of(to_onnx(model, example_inputs), example_inputs, threads)

    def prepare_all(
        self, models: Sequence[nn.Module], example_inputs: Inputs, threads: int
    ) -> list[Call]:
        """Sessions of graphs: one is exported, the others get their weights."""
        written = onnx_of_prunings(models, example_inputs)
        return [self.call_of(each, example_inputs, threads) for each in written]

    def call_of(self, written: OnnxModel, example_inputs: Inputs, threads: int) -> Call:
        """A call that runs an exported model."""
        session = self.session(written, threads)
        feed = written.feed(example_inputs)
        return lambda: session.run(None, feed)

    def session(self, written: OnnxModel, threads: int) -> Any:
        """An `InferenceSession` of an exported model."""
        return open_session(written.data, threads, self.provider)

    def peak_memory(self, model: nn.Module, example_inputs: Inputs, threads: int) -> int | None:
        """Weights as the optimized graph holds them, inputs, and the arena's size in a run.

        Equal weights count apart: after any training they differ.
        """
        written = to_onnx(unequal(model), example_inputs)
        return session_bytes(written.data, written.feed(example_inputs), threads)


def _keep_heap() -> None:
    """Have the C library keep up to 64 MB that are freed, instead of giving them back.

    glibc gives the top of its heap back to the system when more is free there than twice the
    largest mapped block that was ever freed (mallopt(3), M_MMAP_THRESHOLD, at most 32 MB). Below
    that, a forward pass may give back and fault in its activations every time, or never, by what
    happens to lie above them: copies of one MobileNet differed by half (`results/archive.md`).
    """
    torch.empty(_LARGEST_MAPPED, dtype=torch.uint8, device="cpu")
