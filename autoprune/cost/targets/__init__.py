"""The runtimes in which models are timed, by their names in the configuration.

A new one on this machine is a `LocalTarget` with three methods (`check`: is it installed,
`prepare`: model -> a call without arguments, `pinned`: what holds while calls are timed), entered
in `RUNTIMES`. Another machine is an address, `ssh://user@host` (see `SshAddress`).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from autoprune.cost.targets.address import SCHEME, SshAddress
from autoprune.cost.targets.base import LocalTarget, Protocol, Target, Timings
from autoprune.cost.targets.local import EagerTorch, OnnxRuntime
from autoprune.cost.targets.on_device import cores, device_name
from autoprune.cost.targets.ssh import Ssh
from autoprune.errors import DeviceError

RUNTIMES: Mapping[str, Target] = {"torch": EagerTorch(), "onnxruntime": OnnxRuntime()}
"""Name in the configuration → target."""


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


__all__ = [
    "RUNTIMES",
    "EagerTorch",
    "LocalTarget",
    "OnnxRuntime",
    "Protocol",
    "Ssh",
    "SshAddress",
    "Target",
    "Timings",
    "cores",
    "device_name",
    "find_target",
    "is_remote",
]
