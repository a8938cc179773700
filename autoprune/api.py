"""The verbs for Python users; the commands call these too.

>>> import autoprune
>>> result = autoprune.search("digits", budget={"macs": "50%"})     # doctest: +SKIP
>>> autoprune.retrain(result.path, pick="knee", epochs=10)          # doctest: +SKIP
>>> autoprune.export(result.path, format="onnx")                    # doctest: +SKIP
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoprune.architecture import Architecture
from autoprune.budget import Value
from autoprune.config import RunConfig
from autoprune.errors import StoreError, TaskError
from autoprune.pareto import ParetoFront
from autoprune.pick import pick as pick_record
from autoprune.record import TrialRecord
from autoprune.store import CONFIG, RECIPE, RunFolder, read_model
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_task

if TYPE_CHECKING:
    from torch import nn

    from autoprune._export import Exported
    from autoprune._retrain import OnEntry
    from autoprune._search.progress import Progress

FRONT, SUMMARY = "front.json", "summary.json"
_DEEPEST = 3  # a saved model lies in retrained/<trial>/seed-<n> of a run
_OBJECT = "python:"  # the reference of a task that was given as an object


@dataclass(frozen=True)
class Result:
    """What a search found: its front, every trial's record, and the run folder."""

    front: ParetoFront
    records: tuple[TrialRecord, ...]
    path: Path

    @staticmethod
    def read(path: str | Path) -> Result:
        """The result that a run folder holds. Raises StoreError where it has no front yet."""
        folder = RunFolder.open(path)
        if not (folder.path / FRONT).is_file():
            raise StoreError(f"{path} has no front yet · go on with: autoprune resume {path}")
        records = folder.records()
        return Result(ParetoFront.from_dict(folder.read_json(FRONT), records), records, folder.path)

    def pick(self, text: str) -> TrialRecord:
        """The trial that `knee`, `fastest`, `best`, `trial=7` or `latency_ms<=3` names."""
        return pick_record(self.front, text, self.records)


def search(
    task: str | Task,
    *,
    budget: Mapping[str, Value | Mapping[str, Value]],
    space: str | Path | Mapping[str, Any] = "standard",
    device: str | Path | Mapping[str, Any] | None = None,
    devices: Mapping[str, str | Path | Mapping[str, Any]] | None = None,
    train_on: str = "auto",
    task_args: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    sampler: str = "tpe",
    objectives: Sequence[str] | None = None,
    levels: Sequence[Value] = (),
    trials: int = 30,
    total_epochs: float | None = None,
    minutes: float | None = None,
    epochs: float = 2.0,
    rungs: int = 2,
    concurrent: int = 2,
    seed: int = 0,
    calibration_samples: int = 1024,
    screen: int = 32,
    progress: Progress | None = None,
) -> Result:
    """Search small models of `task` within `budget`; the arguments are the configuration's keys.

    `task` is a reference (`digits`, `path/to/file.py:MyTask`, `package.module:MyTask`) or a Task
    object. `device` holds `runtime`, `threads` and `batch`: where the latency counts; or it is
    the file of a `DeviceProfile`, or an address, `ssh://user@host`. `devices` are several such by
    name, with latencies called `latency_ms@<name>`. `progress` is told every new state. Raises
    UsageError before any training where the arguments, the task, the model or the budget do not
    fit.
    """
    options = {
        "sampler": sampler,
        "objectives": list(objectives) if objectives is not None else None,
        "levels": list(levels),
        "trials": trials,
        "total_epochs": total_epochs,
        "minutes": minutes,
        "epochs": epochs,
        "rungs": rungs,
        "concurrent": concurrent,
        "seed": seed,
        "calibration_samples": calibration_samples,
        "screen": screen,
    }
    given = task if isinstance(task, Task) else None
    settings: dict[str, Any] = {
        "task": task if isinstance(task, str) else reference_of(task),
        "task_args": dict(task_args or {}),
        "data": str(data) if data is not None else None,
        "budget": dict(budget),
        **_device_sections(device, devices),
        "train_on": train_on,
        "space": space if isinstance(space, str | Mapping) else str(space),
        "search": options,
        "output": str(output) if output is not None else None,
    }
    return run_config(RunConfig.from_dict(settings, place="search"), task=given, progress=progress)


def _device_sections(
    device: str | Path | Mapping[str, Any] | None,
    devices: Mapping[str, str | Path | Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """The sections that are given, in the YAML's shape."""

    def plain(one: str | Path | Mapping[str, Any]) -> object:
        return dict(one) if isinstance(one, Mapping) else str(one)

    found: dict[str, Any] = {} if device is None else {"device": plain(device)}
    if devices is not None:
        found["devices"] = {name: plain(one) for name, one in devices.items()}
    return found


def run_config(
    config: RunConfig, *, task: Task | None = None, progress: Progress | None = None
) -> Result:
    """Search as `config` says, into its `output` or `results/<task>-<date-time>`."""
    job = task or task_of(config)
    folder = Path(config.output) if config.output else Path("results") / run_name(config.task)
    from autoprune._search.run import run

    run(config, job, folder, progress=progress)
    return Result.read(folder)


def resume(
    path: str | Path, *, task: Task | None = None, progress: Progress | None = None
) -> Result:
    """Go on with a search that was stopped, as it was configured; a finished one is only read.

    `task` is needed where the search was started with a Task object.
    """
    config = config_of(RunFolder.open(path))
    job = task or task_of(config)
    from autoprune._search.run import run

    run(config, job, Path(path), progress=progress, resume=True)
    return Result.read(path)


@dataclass(frozen=True)
class Retrained:
    """A pick trained in full: `path` holds a model for each seed and `summary.json`, read here.

    `summary` has `number`, `epochs`, `seeds`, `test` and `validation` (mean and sample standard
    deviation over the seeds), `dense` (its test metrics and measured cost) and `measured`.
    """

    path: Path
    summary: Mapping[str, Any]


def retrain(
    path: str | Path,
    *,
    pick: str = "knee",
    epochs: float = 20.0,
    seeds: int | Sequence[int] = 3,
    lr: float | None = None,
    distillation: float | None = None,
    task: Task | None = None,
    on_entry: OnEntry | None = None,
) -> Retrained:
    """Train a run's pick in full from the dense weights, with its schedule, once for each seed.

    `seeds` are the seeds, or how many (0, 1, ...). `lr` and `distillation` replace those of the
    trial: what is best for short trials is often too cautious for a long training. The test split
    is read once for each finished model. Written to `retrained/<trial>/` in the run's folder:
    `seed-<n>/` and `summary.json` with the latency of the first seed's model, measured beside the
    dense one. An interrupted retraining goes on where it stopped when it is called again, a
    finished one is returned. `on_entry(seed, entry)` is told each validation. Raises StoreError
    where another retraining stands there.
    """
    from autoprune._retrained import retrain_trial

    found = Result.read(path)
    config = config_of(RunFolder.open(path))
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    recipe = {"lr": lr, "distillation": distillation}
    folder = retrain_trial(
        RunFolder.open(path),
        config,
        task or task_of(config),
        found.pick(pick),
        epochs=epochs,
        seeds=numbers,
        recipe={name: value for name, value in recipe.items() if value is not None},
        on_entry=on_entry,
    )
    return Retrained(folder, json.loads((folder / SUMMARY).read_text()))


def load(path: str | Path, *, pick: str = "knee", task: Task | None = None) -> nn.Module:
    """A saved small model in eval mode on the CPU.

    `path` is a model's folder, or a run's: then `pick` says which model, and its retrained version
    (of the first seed) is taken where there is one. The dense architecture is built through the
    task, cut, and the weights are loaded strictly. Raises StoreError where they do not fit.
    """
    return load_with_task(path, pick=pick, task=task)[0]


def load_with_task(
    path: str | Path, *, pick: str = "knee", task: Task | None = None
) -> tuple[nn.Module, Task, Path]:
    """`load`, together with the model's task and the folder that it came from."""
    folder = model_folder(path, pick)
    recipe, state = read_model(folder)
    found = task or _task_of_model(folder, recipe)
    architecture = Architecture.from_dict(recipe["candidate"]["architecture"])
    return rebuild(found, architecture, recipe["kept_indices"], state, folder), found, folder


def rebuild(
    task: Task,
    architecture: Architecture,
    kept_indices: Mapping[str, Sequence[int]],
    state: Mapping[str, torch.Tensor],
    place: str | Path,
) -> nn.Module:
    """The model of `task` with this architecture, these units and the weights `state`.

    Raises StoreError that names `place` where the weights do not fit the architecture.
    """
    from autoprune.pruning.build import build
    from autoprune.pruning.verification import traced

    with torch.random.fork_rng(devices=[]):
        model = task.build_model().eval()
    graph = traced(
        model,
        task.example_input(),
        ignored_layers=task.ignored_layers,
        num_heads=task.num_heads,
    )
    unknown = [name for name in architecture.widths if name not in graph.sizes()]
    if unknown:
        raise StoreError(
            f"{place}: {type(task).__name__} has no group {unknown[0]!r} · it was saved from "
            "another architecture"
        )
    model = build(model, graph, architecture, kept_indices=kept_indices).model
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise StoreError(
            f"{place}: the weights do not fit {type(task).__name__}: {first}"
        ) from error
    return model.eval()


def export(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    output: str | Path | None = None,
    pick: str = "knee",
    dynamic_batch: bool = False,
    task: Task | None = None,
) -> Exported:
    """Write a saved model as `onnx` or `pt2`, load the file in its runtime and compare outputs.

    `path` and `pick` as for `load`; `output` defaults to `model.<format>` in the model's folder,
    `format` to what the ending of `output` says, or else `onnx`.
    Raises ExportError where the written model does not agree.
    """
    from autoprune._export import export_model

    model, found, folder = load_with_task(path, pick=pick, task=task)
    file = Path(output) if output is not None else folder / f"model.{format or 'onnx'}"
    return export_model(
        model, file, found.example_input(), format=format, dynamic_batch=dynamic_batch
    )


def model_folder(path: str | Path, pick: str = "knee") -> Path:
    """The folder of the model that `path` (a model or a run) and `pick` mean."""
    folder = Path(path)
    if (folder / RECIPE).is_file():
        return folder
    if (folder / SUMMARY).is_file():
        return _first_seed(folder)
    record = Result.read(folder).pick(pick)
    again = folder / "retrained" / str(record.number)
    if (again / SUMMARY).is_file():
        return _first_seed(again)
    if record.artifact is None:
        raise StoreError(
            f"trial {record.number} ({record.state}) has no saved model · retrain it with: "
            f"autoprune retrain {path} --pick trial={record.number}"
        )
    return folder / record.artifact


def _first_seed(folder: Path) -> Path:
    seeds = json.loads((folder / SUMMARY).read_text())["seeds"]
    return folder / f"seed-{seeds[0]}"


def config_of(run: RunFolder) -> RunConfig:
    """The configuration of a run as it was resolved."""
    return RunConfig.from_dict(run.config, place="config.yaml", base=run.path, resolved=True)


def task_of(config: RunConfig) -> Task:
    """The task that a configuration names. Raises TaskError where it was given as an object."""
    return _task(config.task, config.task_args, config.data, config.base)


def reference_of(task: Task) -> str:
    """What stands for a task that was given as an object: it cannot be found by name again."""
    return f"{_OBJECT}{type(task).__name__}"


def run_name(task: str, now: datetime.datetime | None = None) -> str:
    """`<task>-<date-time>`: the default name of a run's folder.

    >>> run_name("jobs/my_task.py:MyTask", datetime.datetime(2026, 1, 2, 3, 4, 5))
    'mytask-20260102-030405'
    """
    label = re.sub(r"[^a-z0-9_]+", "-", re.split(r"[:/]", task)[-1].lower()).strip("-")
    return f"{label}-{now or datetime.datetime.now():%Y%m%d-%H%M%S}"


def _task_of_model(folder: Path, recipe: Mapping[str, Any]) -> Task:
    """The task of a saved model, with the data folder of the run that it lies in."""
    around = folder.resolve().parents[:_DEEPEST]
    run = next((parent for parent in around if (parent / CONFIG).is_file()), None)
    if run is None:
        return _task(recipe["task"], recipe["task_args"])
    config = config_of(RunFolder.open(run))
    return _task(recipe["task"], recipe["task_args"], config.data, config.base)


def _task(
    reference: str,
    args: Mapping[str, Any],
    data: str | None = None,
    base: str | None = None,
) -> Task:
    if reference.startswith(_OBJECT):
        raise TaskError(
            f"this run was made with a Task object ({reference.removeprefix(_OBJECT)}) · call it "
            "from Python with task=..."
        )
    return load_task(reference, base=Path(base) if base else None, data=data, args=args)
