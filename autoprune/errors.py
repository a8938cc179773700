"""The tree of errors.

AutopruneError
├── UsageError            a user error; the CLI exits with 2
│   ├── ConfigError       a key or value of the run's configuration
│   ├── TaskError         the task's file, class, data or checkpoint
│   ├── GraphError        a model that cannot be traced, a group that does not exist
│   ├── BudgetError       a limit that cannot be read or cannot be met
│   ├── DeviceError       a runtime, profile or device that is missing or does not fit
│   │   ├── DeviceLostError   a remote device that cannot be reached, or whose connection broke
│   │   └── NoisyError        a measurement that is too noisy to be used
│   └── StoreError        a run folder that is missing, locked or damaged
└── WorkError             the computation failed; the CLI exits with 1
    ├── TrainingError     loss or metric became NaN, or training could not continue
    └── ExportError       a written model does not load or does not agree
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AutopruneError(Exception):
    """Base of every error that autoprune raises on purpose."""


class UsageError(AutopruneError):
    """A user error: one line says where it is and how to fix it."""


class ConfigError(UsageError):
    """A key or value of the run's configuration is wrong."""


class TaskError(UsageError):
    """The task's file, class, data or checkpoint does not fit."""


class GraphError(UsageError):
    """A model cannot be traced, or a group that was named does not exist."""


class BudgetError(UsageError):
    """A limit cannot be read or cannot be met."""


class DeviceError(UsageError):
    """A runtime, profile or device is missing or does not fit."""


class DeviceLostError(DeviceError):
    """A remote device cannot be reached, or its connection broke."""


class NoisyError(DeviceError):
    """A measurement is too noisy to be used; `latencies` is what was measured."""

    def __init__(self, message: str, latencies: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.latencies = tuple(latencies)


class StoreError(UsageError):
    """A run folder is missing, locked by another process, or damaged."""


class WorkError(AutopruneError):
    """The computation failed, not the user's input."""


class TrainingError(WorkError):
    """Loss or metric became NaN, or training could not continue."""


class ExportError(WorkError):
    """A written model does not load again or does not agree with the original."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, at most 200 characters.

    >>> first_line(ValueError("no such layer\\nat line 7"))
    'no such layer'
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
