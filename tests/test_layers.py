"""The plan of the house, read from the source: who may import whom, and who may print."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autoprune"

FLOORS = {
    "cli": 7,
    "__main__": 7,
    "api": 6,
    "callbacks": 6,
    "doctor": 6,
    "schema": 6,
    "extension": 6,
    "loading": 6,
    "joint": 6,
    "starting_configs": 6,
    "starting_models": 6,
    "options": 6,
    "result": 6,
    "report": 6,
    "cards": 6,
    "huggingface": 6,
    "_retraining": 6,
    "_export": 6,
    "profile": 6,
    "templates": 6,
    "_search": 5,
    "quantization": 5,
    "training": 4,
    "device": 3,
    "pruning": 2,
    "trust": 2,
    "cost": 2,
    "graph": 1,
    "config": 1,
    "store": 1,
    "tasks": 1,
    "architecture": 0,
    "candidate": 0,
    "patterns": 0,
    "space": 0,
    "schedule": 0,
    "budget": 0,
    "log_level": 0,
    "record": 0,
    "pareto": 0,
    "pick": 0,
    "quality": 0,
    "recommendation": 0,
    "errors": 0,
    "printable": 0,
    "html_table": 0,
    "cost_fields": 0,
}
SEARCH_FLOORS = {
    "run": 8,
    "ending": 7,
    "preparing": 6,
    "trials": 5,
    "initial": 4,
    "sampling": 3,
    "state": 2,
    "measuring": 2,
    "plan": 1,
    "allocation": 0,
}
ONLY_IN = {"optuna": "_search", "ray": "_search"}
NEVER = {"pickle", "dill", "cloudpickle", "shelve"}
FLOOR_0_MAY_USE = {"numpy"}
RUNTIME_EXTRAS = ("openvino", "ncnn", "executorch", "litert", "coreml")
ELSEWHERE = {"litert_torch"}  # imported by a script for a Python of its own


def room(file: Path) -> str:
    """`autoprune/graph/trace.py` -> `graph`, `autoprune/api.py` -> `api`."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the floor"
            module = node.module or ""
            if (module, [alias.name for alias in node.names]) == ("pickle", ["UnpicklingError"]):
                continue  # what torch.load(weights_only=True) raises for a file that it refuses
            if module == "autoprune":
                yield from ((node.lineno, f"autoprune.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def breaches(room_name: str, source: str) -> list[str]:
    """Every way in which one module of `room_name` breaks the plan, as readable lines."""
    found = []
    stdlib = sys.stdlib_module_names
    tree = ast.parse(source)
    for line, name in imports(tree):
        top, *rest = name.split(".")
        if top in NEVER:
            found.append(f"{line}: imports {top}; files of ours hold no pickle")
        if top in ONLY_IN and room_name != ONLY_IN[top]:
            found.append(f"{line}: imports {top} outside {ONLY_IN[top]}/")
        if room_name == "report" and top == "torch":
            found.append(f"{line}: report/ never imports torch")
        if top == "autoprune" and rest and rest[0] != room_name:
            if rest[0] not in FLOORS:
                found.append(f"{line}: imports {name}, which has no floor")
            elif FLOORS[rest[0]] > FLOORS[room_name]:
                found.append(f"{line}: floor {FLOORS[room_name]} imports {name} above it")
        if FLOORS[room_name] == 0 and top not in stdlib | FLOOR_0_MAY_USE | {"autoprune"}:
            found.append(f"{line}: floor 0 is stdlib and NumPy only, imports {top}")
    if room_name != "cli":
        found += [f"{line}: prints; only cli/ prints" for line in prints(tree)]
    return found


def search_breaches(file: str, source: str) -> list[str]:
    """The imports of a module of `_search` that point up or across its rooms.

    `file` is below `_search/`: `state/ledger.py` or `plan.py`.
    """
    own = file.split("/")[0].removesuffix(".py")
    found = []
    for line, name in imports(ast.parse(source)):
        top, room_name, *rest = [*name.split("."), ""]
        if (top, room_name) != ("autoprune", "_search") or rest[0] == own:
            continue
        if SEARCH_FLOORS[rest[0]] >= SEARCH_FLOORS[own]:
            found.append(f"{line}: {own} imports {rest[0]}, which is not below it")
    return found


def circles(sources: Mapping[str, str]) -> list[set[str]]:
    """The sets of modules that import each other, however far around; each as small as can be.

    `sources` are by module (`cost.targets.local`; a package's own by its folder). Imports for the
    type checker and within functions count.
    """
    graph = {name: imported(source, sources) - {name} for name, source in sources.items()}
    reached = {name: reachable(graph, name) for name in graph}
    found = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
        if name in reached[name]
    }
    return sorted(map(set, found), key=sorted)


def imported(source: str, known: Collection[str]) -> set[str]:
    """The known modules that a source imports; from a package, its module of that name if any."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("autoprune.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = f"{node.module}.".removeprefix("autoprune.")
            inner = [f"{whole}{alias.name}" for alias in node.names]
            found |= {name if name in known else whole.removesuffix(".") for name in inner}
    return found & set(known)


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def prints(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print":
                yield node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            yield node.lineno


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_keeps_to_its_floor(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        names = {name for _, name in imports(ast.parse(file.read_text()))}
        assert names == {"__future__", "lazy_loader"}
        return
    assert room(file) in FLOORS, f"{file} has no floor in DESIGN"
    assert breaches(room(file), file.read_text()) == []


@pytest.mark.parametrize(
    ("room_name", "source", "breach"),
    [
        ("training", "import ray", "ray outside _search/"),
        ("report", "from optuna.trial import Trial", "optuna outside _search/"),
        ("graph", "from autoprune.pruning.surgery import prune", "floor 1 imports"),
        ("budget", "import torch", "stdlib and NumPy only"),
        ("report", "def f():\n    import torch", "never imports torch"),
        ("store", "import pickle", "no pickle"),
        ("_search", "print('x')", "only cli/ prints"),
        ("_search", "import sys\nsys.stderr.write('x')", "only cli/ prints"),
        ("_search", "from autoprune import cli", "floor 5 imports autoprune.cli above it"),
    ],
)
def test_breach_is_found(room_name: str, source: str, breach: str) -> None:
    found = breaches(room_name, source)
    assert len(found) == 1
    assert breach in found[0]


SEARCH_SOURCES = sorted((PACKAGE / "_search").rglob("*.py"))


@pytest.mark.parametrize("file", SEARCH_SOURCES, ids=lambda file: str(file.name))
def test_the_rooms_of_the_search_import_downwards(file: Path) -> None:
    below = str(file.relative_to(PACKAGE / "_search"))
    assert search_breaches(below, file.read_text()) == []


def test_an_import_upwards_in_the_search_is_found() -> None:
    upwards = "from autoprune._search.trials.tuning import tune"
    assert search_breaches("state/ledger.py", upwards) == [
        "1: state imports trials, which is not below it"
    ]
    assert search_breaches("run.py", upwards) == []


def test_no_modules_import_each_other() -> None:
    """Inside a room, and between the rooms of one floor; the floors keep the others apart."""
    sources = {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): (
            file.read_text()
        )
        for file in SOURCES
        if file != PACKAGE / "__init__.py"
    }
    assert circles(sources) == []


def test_rooms_of_one_floor_are_no_circle() -> None:
    rooms: dict[str, str] = {}
    for file in SOURCES:
        if file != PACKAGE / "__init__.py":
            names = [name for _, name in imports(ast.parse(file.read_text()))]
            ours = {name.split(".")[1] for name in names if name.startswith("autoprune.")}
            lines = [f"import autoprune.{name}" for name in sorted(ours - {room(file)})]
            rooms[room(file)] = "\n".join([rooms.get(room(file), ""), *lines])
    assert circles(rooms) == []


@pytest.mark.parametrize(
    "back",
    [
        "import autoprune.cost.model",
        "from autoprune.cost import model",
        "from autoprune.cost.model import CostModel",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import autoprune.cost.model",
        "def late():\n    from autoprune.cost.model import CostModel",
    ],
)
def test_a_circle_is_found(back: str) -> None:
    sources = {
        "cost.model": "from autoprune.cost.sizes import Sizes",
        "cost.sizes": "from autoprune.graph import Dim\nfrom autoprune.cost.features import f",
        "cost.features": back,
        "graph": "import torch",
        "cost.inputs": "from autoprune.cost import model",
    }
    assert circles(sources) == [{"cost.model", "cost.sizes", "cost.features"}]
    assert circles({**sources, "cost.features": "import torch"}) == []


def distributions(lines: Collection[str]) -> set[str]:
    return {re.split(r"[\[>=<]", line)[0].lower() for line in lines}


def at_import(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The imports that run when the module is imported: not those inside of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from (
                imports(ast.Module([node], []))
                if isinstance(node, (ast.Import, ast.ImportFrom))
                else at_import(node)
            )


def test_every_import_is_a_declared_dependency() -> None:
    """Those of an extra only where they are used: inside of functions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = distributions(project["dependencies"])
    extras = distributions([line for group in RUNTIME_EXTRAS for line in extra(project, group)])
    names = {  # import -> distribution
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "PIL": "pillow",
        "ai_edge_litert": "ai-edge-litert",
    }
    trees = [ast.parse(file.read_text()) for file in SOURCES]
    used, early = (
        {
            names.get(top, top)
            for tree in trees
            for _, name in found(tree)
            if (top := name.split(".")[0]) not in sys.stdlib_module_names | {"autoprune"}
        }
        for found in (imports, at_import)
    )
    assert used <= declared | extras | ELSEWHERE
    assert early <= declared


def extra(project: Mapping[str, Mapping[str, list[str]]], name: str) -> list[str]:
    return project["optional-dependencies"][name]


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in PACKAGE.rglob("__init__.py")
    }
    assert set(listed) == folders | {"autoprune.search_spaces"}


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Pytest imports them by name alone: of two alike, the suite is not even collected."""
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    names = [file.name for file in files]
    assert len(files) > 100
    assert [name for name in names if names.count(name) > 1] == []


PLAIN = {"exported"}  # a value without any behavior


def test_every_module_has_a_test_file() -> None:
    """`test_<module>.py`, or `test_<room>_<module>.py` where another has that name."""
    there = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    lacking = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "autoprune").rglob("*.py")
        if (name := file.stem.lstrip("_")) not in PLAIN
        and not file.stem.startswith("__")
        and not {f"test_{name}", f"test_{file.parent.name.lstrip('_')}_{name}"} & there
    ]
    assert lacking == []
