"""What a resumed run makes again: the records are the truth, all else can be set aside.

A file that is damaged is renamed into `damaged/` of the run, never deleted. What a killed process
left half done (drafts of files, models without a record, Ray's own folder) is removed. Whoever
mends holds `writing()`.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoprune.errors import StoreError
from autoprune.record import TrialRecord
from autoprune.store import records as lines
from autoprune.store.contents import (
    ARITHMETIC,
    DENSE,
    FRONT,
    GROUPS,
    IMPORTANCES,
    LAYERS,
    PLAN,
    RECORDS,
    SENSITIVITY,
    SMALLER,
    STATE,
    device_file,
)
from autoprune.store.models import is_model
from autoprune.store.run import CONFIG, ENVIRONMENT, REPORT, TABLE, RunFolder

DAMAGED = "damaged"
TUNE = "tune"  # Ray Tune's own folder while a search runs
_WRITTEN = (
    *(CONFIG, ENVIRONMENT, TABLE, REPORT, RECORDS),
    *(ARITHMETIC, DENSE, FRONT, GROUPS, IMPORTANCES, LAYERS, PLAN, SENSITIVITY),
    *(SMALLER, STATE),
)
_log = logging.getLogger(__name__)


def set_aside(run: RunFolder, file: Path, why: str) -> None:
    """Move a damaged file of the run out of the way, with a warning that says why."""
    folder = run.path / DAMAGED
    folder.mkdir(exist_ok=True)
    free = (folder / f"{file.name}.{n}" for n in range(10**6))
    target = next(path for path in free if not path.exists())
    file.rename(target)
    _log.warning("%s · it is made again; the damaged one is %s", why, target)


def mend(run: RunFolder, devices: Iterable[str]) -> None:
    """Set aside every damaged file that can be made again, and remove what was left half done.

    Raises StoreError where configuration or records are damaged: nothing can stand in for them.
    """
    readers: dict[str, Callable[[], object]] = {
        ENVIRONMENT: lambda: run.environment,
        GROUPS: run.groups,
        PLAN: run.plan,
        STATE: run.state,
        DENSE: run.dense,
        ARITHMETIC: run.arithmetic,
        IMPORTANCES: run.importances,
        LAYERS: run.network,
        SMALLER: run.smaller,
        SENSITIVITY: lambda: run.sensitivity(dict),
    }
    for device in devices:
        readers[device_file(device)] = partial(run.profile_summaries, [device])
    for name, read in readers.items():
        _check(run, name, read)
    found = lines.read(run.path / RECORDS)
    _check(run, GROUPS, run.records)  # they do not fit each other: groups are found again
    _check(run, FRONT, lambda: run.front(found))
    lost = run.lost_lines()
    if lost:
        _log.warning("%s lacks %d of its lines: those trials are lost", run.path / RECORDS, lost)
    _sweep(run)
    for record in found:
        if record.artifact is not None and not is_model(run.path / record.artifact):
            _log.warning("the model of trial %d is lost", record.number)
            run.append(replace(record, artifact=None))
    _remove_orphans(run, run.records())


def _check(run: RunFolder, name: str, read: Callable[[], object]) -> None:
    try:
        read()
    except StoreError as error:
        if (run.path / name).exists():
            set_aside(run, run.path / name, str(error))


def _sweep(run: RunFolder) -> None:
    """Remove drafts of files (see `write_bytes`) and Ray's folder."""
    drafts = re.compile(rf"\.({'|'.join(map(re.escape, _WRITTEN))}|device.*\.json)\.\w{{8}}")
    for file in run.path.iterdir():
        if drafts.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)
    if not (run.path / TUNE).is_symlink():
        shutil.rmtree(run.path / TUNE, ignore_errors=True)


def _remove_orphans(run: RunFolder, found: Iterable[TrialRecord]) -> None:
    """Remove drafts of models, and models that belong to no record: of trials that were killed."""
    known = {record.artifact for record in found}
    models = run.path / lines.MODELS
    for folder in models.iterdir() if models.is_dir() else ():
        is_draft = re.fullmatch(r"\.(\d+(-\w+)?|smaller-[\w-]+)\.\w{8}", folder.name)
        is_model_of_ours = re.fullmatch(r"\d+(-\w+)?", folder.name)
        is_orphan = is_model_of_ours and f"{lines.MODELS}/{folder.name}" not in known
        if (is_draft or is_orphan) and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
