"""Whether this machine is ready: versions, processor, folders, runtimes, a configuration."""

from __future__ import annotations

import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from autoprune._search.measuring.target_devices import check_int8, load_targets
from autoprune._search.preparing.checks import metric_names, untrained_graph
from autoprune._search.preparing.reuse import EarlierRun
from autoprune.architecture import INT8 as INT8_MODELS
from autoprune.callbacks import trackers
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
from autoprune.pruning.restrictions import unmatched
from autoprune.quality import check_qualities
from autoprune.tasks.base import Task
from autoprune.tasks.folders import DATA_VARIABLE, cache_folder
from autoprune.tasks.load import check_weights, load_task

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
    names = [*config.starting_models] or [""]
    for name in names:
        yield from _task(f"task {name}".strip(), config.starting_from(name) if name else config)
    for name in config.search.baselines.smaller:
        yield from _task(f"task {name}", config.smaller_model(name), is_pruned=False)
    yield from _data(config)
    for name in config.track:
        yield _tried(f"track {name}", "is installed", partial(trackers, [name]))
    if config.from_run:
        yield _tried("from_run", config.from_run, partial(EarlierRun, config))
    for name, device in config.targets.items():
        what = f"device {name}".strip()
        try:
            find_target(device.runtime).reach(device.threads)
            threads = f"{device.threads} thread{'s' if device.threads > 1 else ''}"
            yield Check(what, "good", f"{device.runtime}, {threads}")
        except AutopruneError as error:
            state: State = "warn" if device.profile else "bad"
            yield Check(what, state, str(error))
    if INT8_MODELS in config.space.precisions:
        yield _tried("int8 models", "run in these runtimes", partial(_check_int8, config))


def _tried(name: str, good: str, look: Callable[[], object]) -> Check:
    try:
        look()
    except AutopruneError as error:
        return Check(name, "bad", str(error))
    return Check(name, "good", good)


def _task(name: str, config: RunConfig, *, is_pruned: bool = True) -> Iterator[Check]:
    """Whether a task can be made, has weights, and what may not be pruned is in its model."""
    base = Path(config.base) if config.base else None
    try:
        task = load_task(config.task, base=base, data=config.data, args=config.task_args)
    except AutopruneError as error:
        yield Check(name, "bad", str(error))
        return
    yield Check(name, "good", config.task)
    weights = str(task.checkpoint) if task.checkpoint else "no checkpoint is needed"
    model = name.removeprefix("task")
    yield _tried(f"weights{model}", weights, partial(check_weights, task))
    if is_pruned and (config.keep or config.bounds):
        look = partial(_unmatched, config, task)
        yield from _all(f"keep and bounds{model}", "match layers of the model", look)
    if is_pruned and config.quality:
        yield from _quality(f"quality{model}", config, task)


def _all(name: str, good: str, look: Callable[[], Sequence[str]]) -> Iterator[Check]:
    """One check for each thing that is found to be wrong, or a good one."""
    try:
        found = look()
    except AutopruneError as error:
        found = [str(error)]
    yield from (Check(name, "bad", text) for text in found)
    if not found:
        yield Check(name, "good", good)


def _unmatched(config: RunConfig, task: Task) -> list[str]:
    return unmatched(config, untrained_graph(task))


def _quality(name: str, config: RunConfig, task: Task) -> Iterator[Check]:
    """Whether `evaluate` gives the metrics that are limited."""
    try:
        given = metric_names(task)
    except AutopruneError as error:
        yield Check(name, "warn", f"names of metrics are not checked: {error}")
        return
    look = partial(_unknown, config, task, given)
    yield from _all(name, f"limits metrics of the task ({', '.join(given)})", look)


def _unknown(config: RunConfig, task: Task, given: Sequence[str]) -> list[str]:
    found, values = [], dict.fromkeys(given, math.nan)  # of the dense model they are not known
    for limit in config.quality_limits:
        try:
            check_qualities([limit], values, task.metric)
        except AutopruneError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _data(config: RunConfig) -> Iterator[Check]:
    folder = config.data or os.environ.get(DATA_VARIABLE)
    if not folder:
        return
    if Path(folder).expanduser().exists():
        yield Check("data", "good", folder)
    else:
        name = "data" if config.data else DATA_VARIABLE
        yield Check(
            "data", "warn", f"{folder} does not exist", f"correct {name}, or put data there"
        )


def _check_int8(config: RunConfig) -> None:
    check_int8(load_targets(config.targets, {}))


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
