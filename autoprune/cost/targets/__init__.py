"""The runtimes in which models are timed, by their names in the configuration.

A new one on this machine is a `LocalTarget` with three methods (`check`: is it installed,
`prepare`: model -> a call without arguments, `pinned`: what holds while calls are timed), entered
in `RUNTIMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from autoprune.budget import Device
from autoprune.cost.targets.base import (
    LocalTarget,
    Protocol,
    Target,
    Timings,
    cores,
    device_name,
)
from autoprune.cost.targets.compiled import CompiledTorch
from autoprune.cost.targets.cuda import CudaGraph, EagerCuda, OnnxRuntimeCuda
from autoprune.cost.targets.local import EagerTorch, OnnxRuntime
from autoprune.errors import DeviceError

RUNTIMES: Mapping[str, Target] = {
    "torch": EagerTorch(),
    "onnxruntime": OnnxRuntime(),
    "torch-compile": CompiledTorch(),
    "cuda": EagerCuda(),
    "cuda-graph": CudaGraph(),
    "onnxruntime-cuda": OnnxRuntimeCuda(),
}
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


def is_here(device: Device) -> bool:
    """Whether this is the device of a latency: the same name, and its runtime is installed."""
    try:
        return find_target(device.runtime).device_name() == device.name
    except DeviceError:
        return False


__all__ = [
    "RUNTIMES",
    "CompiledTorch",
    "CudaGraph",
    "EagerCuda",
    "EagerTorch",
    "LocalTarget",
    "OnnxRuntime",
    "OnnxRuntimeCuda",
    "Protocol",
    "Target",
    "Timings",
    "cores",
    "device_name",
    "find_target",
    "is_here",
]
