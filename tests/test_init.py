"""The package's surface: these names, and nothing heavy before they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import autoprune

NAMES = [
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


def test_exported_names_are_these() -> None:
    assert autoprune.__all__ == NAMES
    assert dir(autoprune) == NAMES


def test_every_name_can_be_used_and_is_no_module() -> None:
    for name in NAMES:
        value = getattr(autoprune, name)
        assert not isinstance(value, ModuleType), name
        assert getattr(value, "__doc__", None), name


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, autoprune\n"
        "print(sorted({'torch', 'ray', 'optuna', 'numpy', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(autoprune, "prune")


def test_version_is_that_of_the_distribution() -> None:
    import tomllib

    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert autoprune.__version__ == settings["project"]["version"]
