"""Data folders, and the cache of decoded data."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from autoprune.errors import TaskError

CACHE_VARIABLE = "AUTOPRUNE_CACHE"
DATA_VARIABLE = "AUTOPRUNE_DATA"

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """AUTOPRUNE_CACHE, or ~/.cache/autoprune. Everything in it can be deleted at any time.

    Raises TaskError where neither is known.
    """
    given = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(given).expanduser() if given else Path.home() / ".cache" / "autoprune"
    except RuntimeError as error:  # a user without an entry in the system's list, in containers
        raise TaskError(
            f"this user has no home folder · set the environment variable {CACHE_VARIABLE} to a "
            "folder that can be written"
        ) from error


def check_writable(folder: Path) -> None:
    """Make a folder of the cache. Raises TaskError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TaskError(
            f"the cache folder {folder} cannot be written ({error.strerror}) · set the environment "
            f"variable {CACHE_VARIABLE} to one that can be"
        ) from error


def data_folders(data: str | Path | None, name: str) -> list[Path]:
    """The folders in which the set `name` may lie: the data folder's `name`, then itself.

    The data folder is `data`, or else AUTOPRUNE_DATA. Raises TaskError when there is none.
    """
    given = data or os.environ.get(DATA_VARIABLE)
    if not given:
        raise TaskError(
            f"{name} needs its data folder · set the configuration's data, or the environment "
            f"variable {DATA_VARIABLE}, to the folder that holds {name}"
        )
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        raise TaskError(
            f"data folder {folder} does not exist · set the configuration's data, or the "
            f"environment variable {DATA_VARIABLE}, to the folder that holds {name}"
        )
    return [path for path in (folder / name, folder) if path.is_dir()]


def find_file(data: str | Path | None, name: str, files: Iterable[str]) -> Path:
    """The first of `files` that is in a data folder. Raises TaskError with what was looked for."""
    folders, files = data_folders(data, name), list(files)
    for folder in folders:
        for file in files:
            if (folder / file).is_file():
                return folder / file
    raise TaskError(
        f"{name} is not in {' or '.join(map(str, folders))}: looked for {' or '.join(files)} · set "
        f"the configuration's data, or {DATA_VARIABLE}, to the folder that holds it"
    )


def cached_arrays(
    name: str, sources: Iterable[Path], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of `make()`, kept as .npy files and memory-mapped, so that workers share pages.

    They are made again when a source's path, size or time of change differs. The mapping is
    copy-on-write: nothing written to an array reaches the file.
    """
    folder = cache_folder() / "data" / f"{name}-{_digest(sources)}"
    if not folder.is_dir():
        log.info("%s is decoded once into %s", name, folder)
        check_writable(folder.parent)
        _write(folder, make())
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


def read_npz(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays `keys` of an .npz file. Raises TaskError when it is damaged or one is missing."""
    keys = list(keys)
    try:
        with np.load(path, allow_pickle=False) as content:
            held = list(content)
            arrays = {key: content[key] for key in keys if key in held}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise TaskError(f"{path} cannot be read: {error} · download it again") from error
    lost = [key for key in keys if key not in arrays]
    if lost:
        raise TaskError(f"{path} must hold {', '.join(lost)}, it holds {', '.join(held)}")
    return arrays


def _write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        for key, array in arrays.items():
            np.save(draft / f"{key}.npy", array, allow_pickle=False)
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not folder.is_dir():  # else another process was first, with the same content
            raise


def _digest(sources: Iterable[Path]) -> str:
    state = hashlib.sha256()
    for path in sources:
        stat = path.stat()
        state.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]
