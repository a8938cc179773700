"""The package's surface: these names, and nothing heavy before they are used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import autoprune
from autoprune import errors


def test_every_name_can_be_used_and_is_no_module() -> None:
    assert len(autoprune.__all__) == len(set(autoprune.__all__)) > 30
    assert dir(autoprune) == sorted(autoprune.__all__)
    for name in autoprune.__all__:
        value = getattr(autoprune, name)
        assert not isinstance(value, ModuleType), name
        assert getattr(value, "__doc__", None), name


def test_names_of_the_readme_and_all_errors_are_exported() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    listed = readme.partition("From Python: ")[2].partition(". ")[0]
    names = re.findall(r"`(\w+)`", listed)
    assert len(names) > 8
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    private = {"Sequence", "Any", "DeviceLostError"}
    assert set(names) | tree - private <= set(autoprune.__all__)


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
