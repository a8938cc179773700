"""The runtimes in which models are timed.

A new one is a class with three methods, entered in `RUNTIMES`: `check` (is it installed),
`prepare` (model → a call without arguments) and `pinned` (what holds while calls are timed).
"""

from __future__ import annotations

import importlib.util
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved
from autoprune.cost.onnx_export import to_onnx
from autoprune.errors import DeviceError

Call = Callable[[], object]


class Target(ABC):
    """A runtime on this machine.

    The promises: `prepare` never touches the given model, does all one-time work (export,
    compilation), and its call returns only when the outputs are there.
    """

    def check(self) -> None:
        """Raise DeviceError, with the command that mends it, where the runtime is missing."""
        return

    @abstractmethod
    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A call that runs one forward pass in eval mode with `threads` threads."""

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """What must hold while calls run; restores what it changes."""
        return nullcontext()


class EagerTorch(Target):
    """PyTorch as it is, on the CPU, in inference mode."""

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A copy of the model, called with the example inputs."""
        small = frozen_copy(model)
        args, kwargs = as_call(moved(example_inputs, "cpu"))
        return lambda: small(*args, **kwargs)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Inference mode, and intra-operator threads set; the number before comes back."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


class OnnxRuntime(Target):
    """ONNX Runtime's CPU provider with all graph optimisations."""

    def check(self) -> None:
        """Needs the package `onnxruntime`."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise DeviceError("runtime 'onnxruntime' is not installed · pip install onnxruntime")

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A session of the exported model; the threads are the session's own."""
        import onnxruntime

        written = to_onnx(model, example_inputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Several sessions are timed in turn: one that waits must not keep a core busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            written.data, options, providers=["CPUExecutionProvider"]
        )
        feed = written.feed(example_inputs)
        return lambda: session.run(None, feed)


RUNTIMES: Mapping[str, Target] = {"torch": EagerTorch(), "onnxruntime": OnnxRuntime()}
"""Name in the configuration → target."""


def find_target(runtime: str) -> Target:
    """The installed target of this name; raises DeviceError naming the nearest known."""
    if runtime not in RUNTIMES:
        near = get_close_matches(runtime, RUNTIMES, 1, 0.4)
        hint = f" · did you mean {near[0]!r}?" if near else ""
        raise DeviceError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}{hint}")
    target = RUNTIMES[runtime]
    target.check()
    return target


def device_name() -> str:
    """What the processor calls itself, e.g. `AMD EPYC 7B13`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "unknown CPU"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
