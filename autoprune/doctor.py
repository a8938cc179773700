"""Whether this machine is ready: versions, threads, processor, folders, runtimes."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from autoprune.config import RunConfig
from autoprune.cost.targets import (
    INT8,
    PACKAGES,
    RUNTIMES,
    cores,
    cpu_flags,
    device_name,
    find_target,
)
from autoprune.cost.targets.load import ExternalLoad
from autoprune.errors import AutopruneError
from autoprune.tasks.folders import cache_folder
from autoprune.tasks.load import load_task

State = Literal["good", "warn", "bad", "info"]
_PACKAGES = ("torch", "ray", "optuna", "onnx", "onnxruntime", "numpy", "scikit-learn")
_EXTRAS = ("tensorboard", "mlflow", "mlflow-skinny", "coremltools", *PACKAGES)
_FEATURES = ("avx2", "avx512f", "amx_bf16", *sorted(INT8))
_LOOK_S = 1.0
_BUSY = 0.1  # share of the cores: more disturbs latencies
_LEAST_FREE = 2e9
_LEAST_SHARED = 5e8


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` says what to do where it is not good."""

    name: str
    state: State
    text: str
    remedy: str = ""


def examine(
    config: Path | None = None,
    *,
    look_s: float = _LOOK_S,
    flags: frozenset[str] | None = None,
) -> list[Check]:
    """Every check of this machine, and of what a configuration needs.

    What else runs is looked at for `look_s` seconds; `flags` are the processor's, by default those
    of this machine.
    """
    known = cpu_flags() if flags is None else flags
    found = [*_versions(), *_processor(known, look_s), *_folders(), *_runtimes()]
    return [*found, *(_configuration(config) if config is not None else ())]


def _versions() -> Iterator[Check]:
    yield Check("python", "info", f"{platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            yield Check(package, "good", version(package))
        except PackageNotFoundError:
            yield Check(package, "bad", "not installed", f"pip install {package}")
    for package in (name for name in _EXTRAS if name not in _PACKAGES):
        try:
            yield Check(package, "good", f"{version(package)} (extra)")
        except PackageNotFoundError:
            continue


def _processor(flags: frozenset[str], look_s: float) -> Iterator[Check]:
    yield Check("processor", "info", f"{device_name()}, {cores()} cores for this process")
    known = [name for name in _FEATURES if name in flags]
    if flags:
        yield Check("instructions", "info", ", ".join(known) or "none of those looked for")
        fast = bool(INT8 & flags)
        slow = "no int8 dot products: int8 files are smaller, do not expect them to be faster"
        yield Check("int8", "good" if fast else "info", "has dot products" if fast else slow)
    threads = os.environ.get("OMP_NUM_THREADS")
    words = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS is not set"
    yield Check("threads", "info", f"{words}; a search divides the cores among its trials")
    load = ExternalLoad()
    time.sleep(look_s)
    share = load.share()
    if share is not None:
        busy = share > _BUSY
        yield Check(
            "load",
            "warn" if busy else "good",
            f"others use {share:.0%} of the cores",
            "latencies are noisy on a busy machine: measure when it is idle" if busy else "",
        )


def _folders() -> Iterator[Check]:
    ray = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    folders = {"cache folder": cache_folder(), "Ray's folder": ray, "this folder": Path.cwd()}
    for name, folder in folders.items():
        yield _folder(name, folder)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        enough = free >= _LEAST_SHARED
        remedy = "Ray falls back to the disk; in a container: --shm-size=2g"
        yield Check(
            "shared memory", "good" if enough else "warn", _size(free), "" if enough else remedy
        )


def _folder(name: str, folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedies = {
            "cache folder": "set AUTOPRUNE_CACHE to a folder that is",
            "Ray's folder": "set RAY_TMPDIR to a folder that is",
        }
        why = f"{folder} is not writable: {error.strerror}"
        return Check(name, "bad", why, remedies.get(name, "change to a folder that is"))
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        return Check(name, "warn", f"{folder}: only {_size(free)} free", "free some disk space")
    return Check(name, "good", f"{folder} is writable, {_size(free)} free")


def _runtimes() -> Iterator[Check]:
    for name, target in RUNTIMES.items():
        try:
            target.check()
        except AutopruneError as error:
            yield Check(f"runtime {name}", "info", str(error))
        else:
            yield Check(f"runtime {name}", "good", "loads")


def _configuration(file: Path) -> Iterator[Check]:
    try:
        config = RunConfig.load(file)
    except AutopruneError as error:
        yield Check("configuration", "bad", str(error))
        return
    yield Check("configuration", "good", f"{file}: budget {config.budget}")
    try:
        base = Path(config.base) if config.base else None
        load_task(config.task, base=base, data=config.data, args=config.task_args)
        yield Check("task", "good", config.task)
    except AutopruneError as error:
        yield Check("task", "bad", str(error))
    for name, device in config.targets.items():
        what = f"device {name}".strip()
        try:
            find_target(device.runtime).reach(device.threads)
            yield Check(what, "good", f"{device.runtime}, {device.threads} threads")
        except AutopruneError as error:
            state: State = "warn" if device.profile else "bad"
            yield Check(what, state, str(error))


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
