"""The runtimes in which models are timed, by their names in the configuration.

A new one on this machine is a `LocalTarget` with three methods (`check`: is it installed,
`prepare`: model -> a call without arguments, `pinned`: what holds while calls are timed), entered
in `RUNTIMES`. Another machine is an address, `ssh://user@host` (see `SshAddress`).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from autoprune.budget import Device
from autoprune.cost.targets.address import SCHEME, SshAddress
from autoprune.cost.targets.base import LocalTarget, Protocol, Target, Timings
from autoprune.cost.targets.compiled import CompiledTorch
from autoprune.cost.targets.cuda import CudaGraph, EagerCuda, OnnxRuntimeCuda
from autoprune.cost.targets.executorch import ExecuTorch
from autoprune.cost.targets.litert import LiteRt
from autoprune.cost.targets.local import EagerTorch, OnnxRuntime
from autoprune.cost.targets.ncnn import Ncnn
from autoprune.cost.targets.on_device import INT8, cores, cpu_flags, device_name, int8_instructions
from autoprune.cost.targets.openvino import OpenVino
from autoprune.cost.targets.ssh import Ssh
from autoprune.errors import DeviceError

RUNTIMES: Mapping[str, LocalTarget] = {
    "torch": EagerTorch(),
    "onnxruntime": OnnxRuntime(),
    "torch-compile": CompiledTorch(),
    "openvino": OpenVino(),
    "ncnn": Ncnn(),
    "executorch": ExecuTorch(),
    "litert": LiteRt(),
    "cuda": EagerCuda(),
    "cuda-graph": CudaGraph(),
    "onnxruntime-cuda": OnnxRuntimeCuda(),
}
"""Name in the configuration → target."""

PACKAGES = tuple(dict.fromkeys(name for target in RUNTIMES.values() for name in target.packages))
"""The distributions of all runtimes."""


def is_remote(runtime: str) -> bool:
    """Whether this is the address of another machine."""
    return runtime.startswith(SCHEME)


def find_target(runtime: str) -> Target:
    """The installed target of this name or address; raises DeviceError naming the nearest known."""
    if not is_remote(runtime) and runtime not in RUNTIMES:
        near = get_close_matches(runtime, RUNTIMES, 1, 0.4)
        hint = f" · did you mean {near[0]!r}?" if near else ""
        raise DeviceError(
            f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}{hint} · another "
            f"machine: {SCHEME}user@host"
        )
    target = Ssh(runtime) if is_remote(runtime) else RUNTIMES[runtime]
    target.check()
    return target


def is_here(device: Device) -> bool:
    """Whether this machine is the device of a latency: the same name, its runtime installed."""
    return not why_elsewhere(device)


def why_elsewhere(device: Device) -> str:
    """Why this machine is not the device of a latency, in words; empty where it is."""
    target = RUNTIMES.get(device.runtime)
    if target is None:
        return f"there is no runtime {device.runtime} here"
    if target.device_name() != device.name:
        return f"this machine is {target.device_name()}"
    try:
        target.check()
    except DeviceError as error:
        return str(error)
    return ""


__all__ = [
    "INT8",
    "PACKAGES",
    "RUNTIMES",
    "CompiledTorch",
    "CudaGraph",
    "EagerCuda",
    "EagerTorch",
    "ExecuTorch",
    "LiteRt",
    "LocalTarget",
    "Ncnn",
    "OnnxRuntime",
    "OnnxRuntimeCuda",
    "OpenVino",
    "Protocol",
    "Ssh",
    "SshAddress",
    "Target",
    "Timings",
    "cores",
    "cpu_flags",
    "device_name",
    "find_target",
    "int8_instructions",
    "is_here",
    "is_remote",
    "why_elsewhere",
]
