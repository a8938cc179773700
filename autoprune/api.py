"""The verbs for Python users; the commands call these too.

>>> import autoprune
>>> result = autoprune.search("digits", budget={"macs": "50%"})     # doctest: +SKIP
>>> small = result.model(result.best(macs="1 M").number)            # doctest: +SKIP
>>> autoprune.retrain(result.path, pick="knee", epochs=10)          # doctest: +SKIP
>>> autoprune.export(result.path, format="onnx")                    # doctest: +SKIP
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import torch

from autoprune.architecture import Architecture
from autoprune.budget import Value
from autoprune.config import RunConfig, SearchConfig, nearest
from autoprune.errors import StoreError, TaskError, UsageError
from autoprune.pareto import ParetoFront
from autoprune.pick import best_within
from autoprune.pick import pick as pick_record
from autoprune.record import TrialRecord
from autoprune.store import (
    INT8_FILE,
    FrontQuantization,
    QuantizationSettings,
    Recipe,
    RetrainingFolder,
    RetrainingSummary,
    RunFolder,
    SearchPlan,
    is_model,
    read_model,
    read_packed,
    table_rows,
)
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_task

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from autoprune._export import Exported
    from autoprune._retraining.seeds import OnEntry
    from autoprune._search.progress import Progress

_DEEPEST = 3  # a saved model lies in retrained/<trial>/seed-<n> of a run
_OBJECT = "python:"  # the reference of a task that was given as an object
Precision = Literal["float32", "int8"]
_DeviceSpec = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What a search found: its front, every trial's record, and the run folder.

    `task` is the Task object that the search was given, None where it was named.
    """

    front: ParetoFront
    records: tuple[TrialRecord, ...]
    path: Path
    task: Task | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def read(path: str | Path, task: Task | None = None) -> Result:
        """The result that a run folder holds. Raises StoreError where it has no front yet."""
        folder = RunFolder.open(path)
        records = folder.records()
        found = folder.front(records)
        if found is None:
            raise StoreError(f"{path} has no front yet · resume it with: autoprune resume {path}")
        return Result(found.front, records, folder.path, task)

    @property
    def plan(self) -> SearchPlan | None:
        """What was decided before the first trial: objectives, absolute limits, space, dense cost.

        None for a run that was made before plans were written.
        """
        return RunFolder.open(self.path).plan()

    def pick(self, text: str) -> TrialRecord:
        """The trial that `knee`, `fastest`, `best`, `trial=7` or `latency_ms<=3` names."""
        return pick_record(self.front, text, self.records)

    def best(self, **limits: Value) -> TrialRecord:
        """The front's best trial in the task's metric, its costs within `limits` if any are given.

        Limits are costs: `best(latency_ms=8, weight_bytes="2 MB")`; on a named device
        `best(**{"latency_ms@phone": 8})`. Raises StoreError where no model is within them.
        """
        return best_within(self.front, limits) if limits else self.pick("best")

    def model(self, trial: int | TrialRecord) -> nn.Module:
        """A trial's small model in eval mode on the CPU, retrained where it was (see `load`)."""
        number = trial.number if isinstance(trial, TrialRecord) else trial
        return load(self.path, pick=f"trial={number}", task=self.task)

    def trials_dataframe(self) -> pd.DataFrame:
        """One row a trial; metrics, costs, settings and ratios in columns, as in `trials.csv`."""
        import pandas as pd

        sizes = RunFolder.open(self.path).sizes()
        return pd.DataFrame(list(table_rows(self.records, sizes)))

    def _repr_html_(self) -> str:
        """The front as a small table, for notebooks."""
        from autoprune.report.notebook import front_html

        return front_html(self.front)


class SearchOptions(TypedDict, total=False):
    """The keys of a configuration as keyword arguments; those left out have its defaults.

    `device` holds `runtime`, `threads` and `batch`: where the latency counts; or it is the file of
    a `DeviceProfile`, or an address, `ssh://user@host`. `devices` are several such by name, with
    latencies called `latency_ms@<name>`. The others are documented in `RunConfig` and, from
    `sampler` on, in `SearchConfig`.
    """

    budget: Mapping[str, Value | Mapping[str, Value]]
    space: str | Path | Mapping[str, Any]
    device: _DeviceSpec
    devices: Mapping[str, _DeviceSpec]
    train_on: str
    task_args: Mapping[str, Any]
    data: str | Path | None
    output: str | Path | None
    base: str | Path | None
    sampler: str
    variables: str
    objectives: Sequence[str] | None
    levels: Sequence[Value]
    trials: int
    total_epochs: float | None
    minutes: float | None
    epochs: float
    rungs: int
    concurrent: int
    seed: int
    calibration_samples: int
    screen: int


def search(
    task: str | Task,
    config: RunConfig | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[SearchOptions],
) -> Result:
    """Search small models of `task` within a budget: of a `config`, or of its keys as `options`.

    `task` is a reference (`digits`, `path/to/file.py:MyTask`, `package.module:MyTask`) or a Task
    object; it takes the place of the task that `config` names. `progress` is told every new state.
    Raises UsageError before any training where the arguments, the task, the model or the budget do
    not fit.
    """
    given = task if isinstance(task, Task) else None
    reference = task if isinstance(task, str) else reference_of(task)
    if config is None:
        config = RunConfig.from_dict(_sections(reference, options), place="search")
    elif options:
        raise UsageError(f"search takes a config or options, got both: {', '.join(options)}")
    else:
        config = config.with_task(reference)
    return run_config(config, task=given, progress=progress)


def _sections(reference: str, options: SearchOptions) -> dict[str, Any]:
    """The options in the YAML's shape: those of `search` in their own section."""
    known = [*RunConfig.model_fields, *SearchConfig.model_fields]
    found: dict[str, Any] = {"task": reference, "search": {}}
    for name, value in options.items():
        if name not in SearchOptions.__annotations__:
            raise UsageError(f"search: {name} is not an option · {nearest(name, known)}")
        section = found["search"] if name in SearchConfig.model_fields else found
        section[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Paths as text, and sequences as lists, at every depth."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def run_config(
    config: RunConfig, *, task: Task | None = None, progress: Progress | None = None
) -> Result:
    """Search as `config` says, into its `output` or `results/<task>-<date-time>`."""
    job = task or task_of(config)
    folder = Path(config.output) if config.output else Path("results") / run_name(config.task)
    from autoprune._search.run import run

    run(config, job, folder, progress=progress)
    return Result.read(folder, task)


def resume(
    path: str | Path, *, task: Task | None = None, progress: Progress | None = None
) -> Result:
    """Resume an interrupted search, as it was configured; a finished one is only read.

    `task` is needed where the search was started with a Task object.
    """
    config = RunFolder.open(path).config
    job = task or task_of(config)
    from autoprune._search.run import run

    run(config, job, Path(path), progress=progress, resume=True)
    return Result.read(path, task)


@dataclass(frozen=True)
class RetrainResult:
    """A retrained model: `path` holds the weights of each seed, `summary` what came out."""

    path: Path
    summary: RetrainingSummary


def retrain(
    path: str | Path,
    *,
    pick: str = "knee",
    epochs: float = 20.0,
    seeds: int | Sequence[int] = 3,
    lr: float | None = None,
    distillation: float | None = None,
    quantization_aware: bool | None = None,
    task: Task | None = None,
    on_entry: OnEntry | None = None,
) -> RetrainResult:
    """Retrain a selected model from the dense weights, with its schedule, once for each seed.

    `seeds` are the seeds, or how many (0, 1, ...). `lr` and `distillation` replace those of the
    trial: what is best for short trials is often too cautious for a long training. An int8 model is
    quantized at the end, and the last fifth of its training simulates int8 where its trial lost
    more than 1 % of the metric by that; `quantization_aware` says otherwise. The test split
    is read once for each finished model. Written to `retrained/<trial>/` in the run's folder:
    `seed-<n>/` and `summary.json` with the latency of the first seed's model, measured beside the
    dense one. An interrupted retraining is resumed when it is called again, a finished one is
    returned. `on_entry(seed, entry)` is told each validation. Raises StoreError
    where the folder holds another retraining.
    """
    from autoprune._retraining.trial import retrain_trial

    run, found = RunFolder.open(path), Result.read(path)
    config = run.config
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    recovery = {"lr": lr, "distillation": distillation}
    folder = retrain_trial(
        run,
        config,
        task or task_of(config),
        found.pick(pick),
        epochs=epochs,
        seeds=numbers,
        recovery={name: value for name, value in recovery.items() if value is not None},
        quantization_aware=quantization_aware,
        on_entry=on_entry,
    )
    return RetrainResult(folder.path, folder.summary())


def load(path: str | Path, *, pick: str = "knee", task: Task | None = None) -> nn.Module:
    """A saved small model in eval mode on the CPU.

    `path` is a model's folder, its packed file, or a run's folder: then `pick` says which model,
    and its retrained version (of the first seed) is taken where there is one. The dense
    architecture is built through the task, cut, and the weights are loaded strictly. Raises
    StoreError where they do not fit.
    """
    return load_with_task(path, pick=pick, task=task)[0]


def load_with_task(
    path: str | Path, *, pick: str = "knee", task: Task | None = None
) -> tuple[nn.Module, Task, Path]:
    """`load`, together with the model's task and the folder that it came from."""
    folder = model_folder(path, pick)
    recipe, state = _saved(folder)
    found = task or _task_of_model(folder, recipe)
    architecture = recipe.candidate.architecture
    return rebuild(found, architecture, recipe.kept_indices, state, folder), found, folder


def _saved(place: Path) -> tuple[Recipe, dict[str, torch.Tensor]]:
    return read_packed(place) if place.is_file() else read_model(place)


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
    try:
        shapes = architecture.without_patterns()  # the zeros are in `state`
        model = build(model, graph, shapes, kept_indices=kept_indices).model
    except UsageError as error:
        raise StoreError(f"{place}: {error}") from error
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
    precision: Precision = "float32",
    quantization: QuantizationSettings | None = None,
    test: bool = False,
) -> Exported:
    """Write a saved model as `onnx` or `pt2`, load the file in its runtime and compare outputs.

    `path` and `pick` as for `load`; `output` defaults to `model.<format>` in the model's folder,
    `format` to what the ending of `output` says, or else `onnx`. The format `packed` is a
    compressed file without the zeros of sparse weights, for `load` and `export`; its size is the
    cost `file_bytes`, and it is read again and compared bit for bit.

    With `precision="int8"` the model is quantized after training, calibrated on training samples as
    `quantization` says (see `QuantizationSettings`), and written as ONNX, by default to
    `model.int8.onnx`. Metrics of float32 and int8 on the validation split (with `test` on the test
    split too), sizes and latencies, measured in turns, are in the result's `quantization`, and
    in `int8.json` in the model's folder. Raises ExportError where the written model does not agree,
    or cannot be quantized.
    """
    from autoprune._export import export_int8, export_model, export_packed

    if precision not in get_args(Precision):
        raise UsageError(f"precision must be one of float32, int8, got {precision!r}")
    if precision == "float32" and (quantization is not None or test):
        raise UsageError("quantization and test need precision='int8'")
    if precision == "int8" and format not in (None, "onnx"):
        raise UsageError(f"an int8 model is written as onnx, got format {format!r}")
    model, found, folder = load_with_task(path, pick=pick, task=task)
    inside = folder.parent if folder.is_file() else folder
    if precision == "int8":
        settings = replace(quantization or QuantizationSettings(), dynamic_batch=dynamic_batch)
        file = Path(output) if output is not None else inside / INT8_FILE
        threads = _threads(folder)
        return export_int8(model, file, found, inside, settings, threads=threads, test=test)
    file = Path(output) if output is not None else inside / f"model.{format or 'onnx'}"
    if (format or file.suffix.removeprefix(".")) == "packed":
        return export_packed(file, *_saved(folder))
    return export_model(
        model, file, found.example_input(), format=format, dynamic_batch=dynamic_batch
    )


def quantize(
    path: str | Path,
    *,
    quantization: QuantizationSettings | None = None,
    test: bool = False,
    task: Task | None = None,
) -> FrontQuantization:
    """Quantize the dense model of a run and every member of its front, as `export` does.

    All are measured in turns with the dense float32 model. The run's folder gets `dense.int8.onnx`
    and `dense.int8.json`, the folder of each member's model `model.int8.onnx` and `int8.json`.
    A member without a saved model, or one that cannot be quantized, is `skipped`.
    """
    from autoprune.quantization import quantize_front

    run = RunFolder.open(path)
    members = Result.read(path).front.members
    job, settings = task or task_of(run.config), quantization or QuantizationSettings()
    with run.writing():
        return quantize_front(
            run,
            {record.number: partial(_newest, run, record, job) for record in members},
            job,
            settings,
            threads=_threads(run.path),
            test=test,
        )


def model_folder(path: str | Path, pick: str = "knee") -> Path:
    """The folder or packed file of the model that `path` (a model or a run) and `pick` mean."""
    folder = Path(path)
    if is_model(folder) or folder.is_file():
        return folder
    retrained = RetrainingFolder(folder)
    if retrained.is_finished:
        return retrained.first_model
    return RunFolder.open(folder).newest_model(Result.read(folder).pick(pick))


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


def _newest(run: RunFolder, record: TrialRecord, task: Task) -> tuple[nn.Module, Path]:
    """The newest model of a trial, with its folder."""
    folder = run.newest_model(record)
    if not is_model(folder):
        raise StoreError(f"{folder} holds no saved model")
    return load(folder, task=task), folder


def _config_around(folder: Path) -> RunConfig | None:
    """The configuration of the run that this is, or that it lies in."""
    around = (folder.resolve(), *folder.resolve().parents[:_DEEPEST])
    run = next((each for each in around if RunFolder.is_run(each)), None)
    return RunFolder.open(run).config if run else None


def _threads(folder: Path) -> int:
    """Those of the run's first device, 1 for a model outside a run; at most the cores here."""
    from autoprune.cost.targets import cores

    config = _config_around(folder)
    return min(next(iter(config.targets.values())).threads, cores()) if config else 1


def _task_of_model(folder: Path, recipe: Recipe) -> Task:
    """The task of a saved model, with the data folder of the run that it lies in."""
    config = _config_around(folder)
    if config is None:
        return _task(recipe.task, recipe.task_args)
    return _task(recipe.task, recipe.task_args, config.data, config.base)


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
