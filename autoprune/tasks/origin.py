"""The origin of a task's class (file, module or built-in name), by which any process can import it.

A class from a file has no importable module, so pickling by module name would fail in a worker
process. Its origin (file or module, and the folders that must be importable) travels instead.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.errors import TaskError


@dataclass(frozen=True)
class Origin:
    """A module that holds a task: `file` (absolute) or `module`, and the folders to import from."""

    file: str | None
    module: str
    folders: tuple[str, ...]

    def load(self) -> ModuleType:
        """Import it, or return it when it is there already. Raises TaskError."""
        place = self._place() if self.file is not None else None
        sent = [str(place.parent)] if place is not None and place != Path(self.file or "") else []
        for folder in reversed([*sent, *self.folders]):
            if folder not in sys.path:
                sys.path.insert(0, folder)  # as `python FILE` does: its siblings can be imported
        module = _import_name(self.module) if place is None else _import_file(place)
        _ORIGINS[module.__name__] = self
        return module

    def _place(self) -> Path:
        """The file; on another machine, what a working directory that was sent there has of it."""
        file = Path(self.file or "")
        for folder in self.folders if not file.is_file() else ():
            if file.is_relative_to(folder) and (sent := file.relative_to(folder)).is_file():
                return sent.resolve()
        return file


_ORIGINS: dict[str, Origin] = {}  # module name -> origin, for the modules that `load` has imported


def origin_of(cls: type) -> Origin | None:
    """The origin of a class whose module came through `Origin.load`, else None."""
    return _ORIGINS.get(cls.__module__)


def is_imported(place: str) -> bool:
    """Whether this process has imported the file, or the module of this name."""
    return place in sys.modules or any(origin.file == place for origin in _ORIGINS.values())


def revive(origin: Origin, qualname: str) -> Any:
    """An empty instance of the class `qualname`; the first half of unpickling a task."""
    found: Any = origin.load()
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.__new__(found)


def _import_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TaskError(
                f"task module {name!r} cannot be found (no module named {error.name!r}) · install "
                "it, or name a file instead: path/to/file.py:MyTask"
            ) from error
        raise TaskError(f"task module {name!r} cannot be imported: {_place(error)}") from error
    except (Exception, SystemExit) as error:
        raise TaskError(f"task module {name!r} cannot be imported: {_place(error)}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"task file {path} does not exist · write it as path/to/file.py:MyTask")
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"autoprune_task_{path.stem}_{digest}"  # an edited file is another module
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"task file {path} must be a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(f"task file {path} cannot be imported: {_place(error)}") from error
    return module


def _place(error: BaseException) -> str:
    """`NameError: name 'x' is not defined (model.py, line 7)`, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return f"{type(error).__name__}: {text}"
    last = frames[-1]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"
