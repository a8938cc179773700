"""What may run here: task code and SSH commands that the user has named on this machine.

A run folder or a saved model may come from anybody, and names the file of its task and perhaps the
address of a device. What a configuration names that is given to `search` is the user's own: it is
noted in a file of the cache folder (AUTOPRUNE_CACHE), by the path of the task's file and the
address. Later, what a run or a saved model names is imported or called only if it was noted, is
built in or already imported, or if the user says so (`trust=True`, `--trust`), which notes it too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.errors import TaskError
from autoprune.tasks.folders import cache_folder
from autoprune.tasks.load import BUILT_IN, place_of
from autoprune.tasks.origin import is_imported

FILE = "trusted"
_MOST = 10_000  # lines that are read
_log = logging.getLogger(__name__)
_noted: set[str] = set()  # in this process, also where the cache folder cannot be written


def note(config: RunConfig) -> None:
    """Remember what a configuration of the user's own names."""
    _add(_tasks(config) | _addresses(config))


def check_run(config: RunConfig, place: str | Path, *, trust: bool = False) -> None:
    """Raise TaskError where the configuration of a run folder names what may not run here."""
    _check(_tasks(config) | _addresses(config), place, trust)


def check_task(reference: str, base: str | None, place: str | Path, *, trust: bool = False) -> None:
    """Raise TaskError where the task that a saved model names may not be imported here."""
    _check(_named(reference, base), place, trust)


def _check(names: set[str], place: str | Path, trust: bool) -> None:
    if trust:
        _add(names)
        return
    unknown = sorted(names - _noted - _read())
    if unknown:
        raise TaskError(
            f"{place} would run code of {unknown[0]}, which was not named on this machine before "
            "· if you know who wrote it, add --trust (in Python trust=True); load(path, "
            "model=dense) runs none"
        )


def _named(reference: str, base: str | None) -> set[str]:
    """What stands for a task; nothing where no code would be imported for it."""
    where = reference.rpartition(":")[0]
    if reference in BUILT_IN or not where or where.split(".")[0] == "autoprune":
        return set()
    place = place_of(where, Path(base) if base else Path.cwd())
    is_object = where == "python"  # nothing is imported for it
    return set() if is_object or is_imported(where) or is_imported(place) else {place}


def _tasks(config: RunConfig) -> set[str]:
    """What stands for the task, and for those of smaller dense models."""
    smaller = config.search.baselines.smaller.values()
    references = (config.task, *(what for what in smaller if isinstance(what, str)))
    return set().union(*(_named(reference, config.base) for reference in references))


def _addresses(config: RunConfig) -> set[str]:
    return {device.runtime for device in config.targets.values() if "://" in device.runtime}


def _add(names: Iterable[str]) -> None:
    fresh = set(names) - _noted
    _noted.update(fresh)
    lines = "".join(json.dumps(name) + "\n" for name in sorted(fresh - _read()))
    if not lines:
        return
    try:
        file = cache_folder() / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(lines)
    except (OSError, TaskError) as error:
        _log.info("what was named cannot be noted for later: %s", error)


def _read() -> set[str]:
    """What was noted, as far as the file can be read and belongs to the user alone."""
    try:
        file = cache_folder() / FILE
        state = file.stat()
        if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
            return set()
        lines = file.read_text(encoding="utf-8").splitlines()[-_MOST:]
        found = {json.loads(line) for line in lines}
    except (OSError, ValueError, TypeError, TaskError):
        return set()
    return {name for name in found if isinstance(name, str)}
