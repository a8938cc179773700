"""Targets: runtimes on devices in which models are measured."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoprune.cost.inputs import Inputs
from autoprune.cost.targets.load import ExternalLoad, steal_s
from autoprune.cost.targets.on_device import cores, device_name
from autoprune.cost.timing import Call, Rounds, rounds_of
from autoprune.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Protocol:
    """How models are timed; `threads` are those of one forward pass.

    `precision`: further rounds until every median has this relative precision (see
    `timing.rounds_of`).
    """

    threads: int = 1
    warmup_s: float = 0.2
    repeats: int = 100
    precision: float | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Timings of a target: the interleaved rounds; `device` is its name.

    `busy` is the share of its `cores` that other processes took meanwhile, None if unknown.
    """

    rounds: Rounds
    device: str
    busy: float | None = None
    cores: int = 1


class Target(ABC):
    """A runtime on a device.

    The given models are never changed, and models that are timed by one call are interleaved (see
    `timing.rounds_of`), so that drift of the machine affects all equally.
    """

    def check(self) -> None:
        """Raise DeviceError, with the command that fixes it, where the runtime is missing."""
        return

    @abstractmethod
    def reach(self, threads: int) -> None:
        """Raise DeviceError where the device cannot be reached, or has fewer cores."""

    @abstractmethod
    def time(
        self, models: Sequence[nn.Module], example_inputs: Inputs, protocol: Protocol
    ) -> Timings:
        """Forward passes in eval mode. Raises DeviceError where they cannot be timed."""

    def peak_memory(self, model: nn.Module, example_inputs: Inputs, threads: int) -> int | None:
        """The most bytes that one forward pass holds, weights and inputs with it.

        Measured; None where this runtime does not report it.
        """
        return None


class LocalTarget(Target):
    """A runtime on this machine: three methods to write, `check`, `prepare` and `pinned`.

    `packages` are the distributions that run the model there: their versions are recorded with
    what was measured.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def prepare(self, model: nn.Module, example_inputs: Inputs, threads: int) -> Call:
        """A call that runs one forward pass in eval mode with `threads` threads.

        All one-time work (export, compilation) is done here; the call returns only when the
        outputs are there.
        """

    def prepare_all(
        self, models: Sequence[nn.Module], example_inputs: Inputs, threads: int
    ) -> list[Call]:
        """A call for each model; where the others are prunings of the first, that may save work."""
        return [self.prepare(model, example_inputs, threads) for model in models]

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Sets up the process while calls run, and restores it."""
        return nullcontext()

    def device_name(self) -> str:
        """The name of the device."""
        return device_name()

    def reach(self, threads: int) -> None:
        """The device is this machine."""
        if not 1 <= threads <= cores():
            raise DeviceError(
                f"threads must be from 1 to {cores()} (the cores here), got {threads}"
            )

    def time(
        self, models: Sequence[nn.Module], example_inputs: Inputs, protocol: Protocol
    ) -> Timings:
        """Prepare all, then time them interleaved in this process."""
        self.reach(protocol.threads)
        calls = self.prepare_all(models, example_inputs, protocol.threads)
        load = ExternalLoad()
        with self.pinned(protocol.threads):
            rounds = rounds_of(
                calls, protocol.warmup_s, protocol.repeats, protocol.precision, steal_s
            )
        return Timings(rounds, self.device_name(), load.share(), cores())


def require(name: str, *modules: str) -> None:
    """Raise DeviceError, with the command that installs them, where a module is missing.

    `name` is a runtime that is also the name of the extra with its packages.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise DeviceError(
            f"{name} needs {' and '.join(missing)}, not installed here · "
            f"pip install 'autoprune[{name}]'"
        )
