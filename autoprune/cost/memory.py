"""The peak memory of one forward pass, measured in a runtime."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from autoprune.cost.inputs import Inputs
from autoprune.cost.targets import find_target
from autoprune.errors import DeviceError
from autoprune.graph.replica import check_module


def measure_peak_memory(
    model: nn.Module, example_inputs: Inputs, runtime: str = "torch", *, threads: int = 1
) -> int:
    """The most bytes that one forward pass holds: weights, inputs, activations and workspaces.

    A copy of the model in eval mode, at the batch of `example_inputs`. In `torch` the sum of what
    PyTorch's allocator gave; in `onnxruntime` the weights of its optimized graph and the smallest
    sufficient arena; on a GPU the sum of PyTorch's allocator there. Memory of the runtime's own
    libraries (code, thread stacks, a CUDA context) does not depend on the model and is not
    included. `count_cost` counts the same without measuring. Equal weights of different layers, as
    untrained copies have them, count apart: `onnxruntime` would hold them once.

    Raises DeviceError for a runtime that is unknown or missing, or does not report its memory;
    GraphError where the model is no `nn.Module`.

    >>> import torch
    >>> model, x = nn.Linear(256, 64), torch.zeros(8, 256)
    >>> measure_peak_memory(model, x) == 4 * (256 * 64 + 64 + 8 * 256 + 8 * 64)
    True
    """
    check_module(model)
    found = find_target(runtime).peak_memory(model, example_inputs, threads)
    if found is None:
        raise DeviceError(
            f"runtime {runtime!r} does not report its memory · measure in another one, "
            "e.g. 'torch', or count it with count_cost"
        )
    return found


def largest_peak(
    model: nn.Module, example_inputs: Inputs, runtimes: Iterable[tuple[str, int]]
) -> int | None:
    """The measured peak memory: of several runtimes, each with its threads, the largest.

    None where one of them does not report it.
    """
    most = 0
    for runtime, threads in dict.fromkeys(runtimes):
        found = find_target(runtime).peak_memory(model, example_inputs, threads)
        if found is None:
            return None
        most = max(most, found)
    return most
