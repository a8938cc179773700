"""ExecuTorch with XNNPACK on this machine's processor."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.cost.inputs import Inputs, as_call, frozen_copy, moved, tensors
from autoprune.cost.onnx_export import FlatModule
from autoprune.cost.targets.base import LocalTarget, require
from autoprune.cost.timing import Call
from autoprune.errors import DeviceError, ExportError, first_line
from autoprune.log_level import log_level

LARGEST_BATCH = 64  # with a free batch: the runtime plans its memory ahead


class ExecuTorch(LocalTarget):
    """ExecuTorch in float32: XNNPACK, and its portable kernels for what XNNPACK does not have.

    Preparing a model takes seconds. The threads are a pool of the whole process, which a loaded
    model keeps using: calls that were prepared for another number of threads are refused.
    """

    packages = ("executorch",)

    def check(self) -> None:
        """Needs the package `executorch`."""
        require("executorch", "executorch")

    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A loaded program, which takes and gives tensors."""
        lowered = lower(model, example_inputs)
        use_threads(threads)
        given = [tensor.contiguous() for tensor in tensors(as_call(moved(example_inputs, "cpu")))]
        program = LoadedProgram(lowered)
        try:
            program.run(given)
        except RuntimeError as error:
            raise DeviceError(
                f"runtime 'executorch' cannot run {type(model).__name__} ({first_line(error)}) · "
                "measure it in another runtime"
            ) from error
        return lambda: program.run(given)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """The pool of threads that the calls were prepared for."""
        if _pool()._threadpool_get_thread_count() != threads:
            raise DeviceError(
                "executorch has another number of threads by now than these models were prepared "
                f"for ({threads}) · prepare and time them one number of threads at a time"
            )
        with torch.inference_mode():
            yield


def lower(model: nn.Module, example_inputs: Inputs, *, dynamic_batch: bool = False) -> bytes:
    """The model as an ExecuTorch program (.pte) of its tensors, in their order.

    With `dynamic_batch` the first dimension of every input is free, up to `LARGEST_BATCH`. Raises
    ExportError where it cannot be written.
    """
    flat = FlatModule(frozen_copy(model), moved(example_inputs, "cpu")).eval()
    shapes = _free_batch(flat.example) if dynamic_batch else None
    try:
        with _quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            with torch.no_grad():
                program = torch.export.export(flat, tuple(flat.example), dynamic_shapes=shapes)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        raise ExportError(
            f"the model cannot be written for ExecuTorch ({type(error).__name__}: "
            f"{first_line(error)}) · export it as onnx"
        ) from error


class LoadedProgram:
    """A program in memory; raises RuntimeError where it cannot be loaded or run."""

    def __init__(self, program: bytes | Path) -> None:
        with _quiet():
            from executorch.runtime import Runtime

        _pool()  # made here, without its messages, and not where the program is loaded
        self._program = Runtime.get().load_program(program)
        self._forward = self._program.load_method("forward")

    def run(self, given: list[Tensor]) -> list[Tensor]:
        """One forward pass."""
        return list(self._forward.execute(given))


def use_threads(threads: int) -> None:
    """Give the process's pool this number of threads, before models are loaded that use it."""
    pool = _pool()
    if pool._threadpool_get_thread_count() != threads:
        with _unprinted():
            pool._unsafe_reset_threadpool(threads)
    given = pool._threadpool_get_thread_count()
    if given != threads:
        raise DeviceError(f"executorch must use {threads} threads, got {given}")


def _pool() -> Any:
    """The module of the process's pool, which tells of its files about the processor when made."""
    with _quiet():
        from executorch.extension.pybindings import portable_lib

    with _unprinted():
        portable_lib._threadpool_get_thread_count()
    return portable_lib


@contextmanager
def _unprinted() -> Iterator[None]:
    """Drop what C++ writes to the standard error; it knows no log level. For calls that are short.

    File descriptor 2 is that of all threads.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of what torch and ExecuTorch use themselves, and of experimental parts."""
    with log_level("torch", "torchao", "executorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _free_batch(example: list[Tensor]) -> Any:
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    for tensor in example:
        if tensor.dim() > 0:
            shapes[tensor] = {0: batch}
    return shapes
