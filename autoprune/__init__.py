"""AutoML search for pruned architectures within a measured latency and memory budget.

Three verbs: `search` with a budget, inspect the front, `retrain` (and `export`) the winner. The
names load when first used, so that `import autoprune` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import Result, export, load, resume, retrain, search
    from autoprune.budget import Budget, Cost
    from autoprune.candidate import Candidate, Recovery
    from autoprune.cost.analytic import count_cost
    from autoprune.cost.latency import measure_latency
    from autoprune.cost.memory import measure_peak_memory
    from autoprune.device.profile import DeviceProfile
    from autoprune.errors import (
        AutopruneError,
        BudgetError,
        ConfigError,
        DeviceError,
        ExportError,
        GraphError,
        StoreError,
        TaskError,
        TrainingError,
        UsageError,
        WorkError,
    )
    from autoprune.pareto import ParetoFront
    from autoprune.pruning.compensate import calibrate
    from autoprune.pruning.one_shot import groups, prune_model
    from autoprune.record import TrialRecord
    from autoprune.schedule import Schedule
    from autoprune.tasks.base import Task
    from autoprune.tasks.wrap import wrap

__version__ = "0.1.0"

_HOMES = {
    "AutopruneError": "errors",
    "Budget": "budget",
    "BudgetError": "errors",
    "Candidate": "candidate",
    "ConfigError": "errors",
    "Cost": "budget",
    "DeviceError": "errors",
    "DeviceProfile": "device.profile",
    "ExportError": "errors",
    "GraphError": "errors",
    "ParetoFront": "pareto",
    "Recovery": "candidate",
    "Result": "api",
    "Schedule": "schedule",
    "StoreError": "errors",
    "Task": "tasks.base",
    "TaskError": "errors",
    "TrainingError": "errors",
    "TrialRecord": "record",
    "UsageError": "errors",
    "WorkError": "errors",
    "calibrate": "pruning.compensate",
    "count_cost": "cost.analytic",
    "export": "api",
    "groups": "pruning.one_shot",
    "load": "api",
    "measure_latency": "cost.latency",
    "measure_peak_memory": "cost.memory",
    "prune_model": "pruning.one_shot",
    "resume": "api",
    "retrain": "api",
    "search": "api",
    "wrap": "tasks.wrap",
}

__all__ = [
    "AutopruneError",
    "Budget",
    "BudgetError",
    "Candidate",
    "ConfigError",
    "Cost",
    "DeviceError",
    "DeviceProfile",
    "ExportError",
    "GraphError",
    "ParetoFront",
    "Recovery",
    "Result",
    "Schedule",
    "StoreError",
    "Task",
    "TaskError",
    "TrainingError",
    "TrialRecord",
    "UsageError",
    "WorkError",
    "__version__",
    "calibrate",
    "count_cost",
    "export",
    "groups",
    "load",
    "measure_latency",
    "measure_peak_memory",
    "prune_model",
    "resume",
    "retrain",
    "search",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"autoprune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
