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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from autoprune.callbacks import Callback, Callbacks, trackers
from autoprune.config import RunConfig
from autoprune.errors import StoreError, UsageError
from autoprune.extension import Amount, extend
from autoprune.loading import (
    config_around,
    load_with_task,
    model_words,
    picked,
    reference_of,
    saved,
    task_of,
)
from autoprune.options import SearchOptions, sections
from autoprune.pick import DENSE, RECOMMENDED, word_of
from autoprune.record import TrialRecord
from autoprune.result import Result
from autoprune.space.settings import constants
from autoprune.store import (
    INT8_FILE,
    FrontQuantization,
    QuantizationSettings,
    RetrainingSummary,
    RunFolder,
    SearchPlan,
    is_model,
)
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_dense
from autoprune.trust import check_run, note

if TYPE_CHECKING:
    from torch import nn

    from autoprune._export import Exported
    from autoprune._retraining.rates import OnRate
    from autoprune._retraining.seeds import OnEntry
    from autoprune._search.state.progress import Progress
    from autoprune.report.comparison import Comparison

Precision = Literal["float32", "int8"]


def search(
    task: str | Task,
    config: RunConfig | None = None,
    *,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[SearchOptions],
) -> Result:
    """Search small models of `task` within a budget: of a `config`, or of its keys as `options`.

    `task` is a reference (`digits`, `path/to/file.py:MyTask`, `package.module:MyTask`) or a Task
    object; it takes the place of the task that `config` names. `progress` gets every new state,
    `callbacks` the start, every trial and the end. Writes `output`, by default
    `results/<task>-<date-time>`.

    Raises:
        UsageError: before any training, where the arguments, the task, the model or the budget do
            not fit (ConfigError, TaskError, GraphError, BudgetError, DeviceError).
        WorkError: no trial was completed, or too many in a row failed in the same way.
    """
    given = task if isinstance(task, Task) else None
    reference = task if isinstance(task, str) else reference_of(task)
    if config is None:
        config = RunConfig.from_dict(sections(reference, options), place="search")
    elif options:
        raise UsageError(f"search takes a config or options, got both: {', '.join(options)}")
    else:
        config = config.with_task(reference)
    return run_config(config, task=given, progress=progress, callbacks=callbacks)


def run_config(
    config: RunConfig,
    *,
    task: Task | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Search as `config` says, into its `output` or `results/<task>-<date-time>`."""
    if config.starting_models:
        raise UsageError("starting_models need search_starting_models (in Python), or the command")
    note(config)  # named by the user: `resume` and `load` may import it again
    folder = Path(config.output) if config.output else Path("results") / run_name(config.task)
    return search_into(folder, config, task, progress, callbacks, resumed=False)


def resume(
    path: str | Path,
    *,
    trials: Amount | None = None,
    minutes: Amount | None = None,
    task: Task | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
) -> Result:
    """Resume an interrupted search; with `trials` or `minutes` also continue a finished one.

    These are new totals, or more with a plus: `trials="+20"`. Without them a finished search is
    only read. `task` is needed where the search was started with a Task object. `trust` allows to
    import the task's file, and to use a device's address, that were never named on this machine
    (see docs/security.md); without it they raise TaskError.
    """
    run = RunFolder.open(path)
    run.check_single()
    job = _task_of_run(run, task, trust)
    config = run.config
    if trials is not None or minutes is not None:
        config = extend(run, trials, minutes)
    search_into(Path(path), config, job, progress, callbacks, resumed=True)
    return Result.read(path, task)


def verify(
    path: str | Path,
    *,
    task: Task | None = None,
    progress: Progress | None = None,
    trust: bool = False,
) -> Result:
    """Measure the front of a finished search again; models over the budget are left out of it.

    `trust` as for `resume`. Raises StoreError where there is no front yet, DeviceError where a
    device that was measured cannot be now, or none can: the front then stays as it was.
    """
    from autoprune._search.run import measure_again

    run = RunFolder.open(path)
    run.check_single()
    job = _task_of_run(run, task, trust)
    measure_again(run.config, job, Path(path), progress=progress)
    return Result.read(path, task)


def search_into(
    folder: Path,
    config: RunConfig,
    task: Task | None,
    progress: Progress | None,
    callbacks: Sequence[Callback],
    *,
    resumed: bool,
) -> Result:
    """Search as `config` says, or resume the search, in a folder; the task may be an object."""
    told = Callbacks([*callbacks, *trackers(config.track)])
    job, begun = task or task_of(config), False
    from autoprune._search.run import run

    def on_start(plan: SearchPlan) -> None:
        nonlocal begun
        begun = True
        told.on_start(config, plan, folder)

    try:
        run(
            config,
            job,
            folder,
            progress=progress,
            resume=resumed,
            on_start=on_start,
            on_trial=told.on_trial,
        )
    except BaseException:
        told.on_stop(folder)
        raise
    result = Result.read(folder, task)
    if begun:
        told.on_end(result.front, folder)
    return result


@dataclass(frozen=True)
class RetrainResult:
    """A retrained model: `path` holds the weights of each seed, `summary` what came out."""

    path: Path
    summary: RetrainingSummary


def retrain(
    path: str | Path,
    *,
    pick: str = RECOMMENDED,
    epochs: float = 20.0,
    seeds: int | Sequence[int] = 3,
    lr: float | None = None,
    distillation: float | None = None,
    recovery: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    find_lr: bool = False,
    quantization_aware: bool | None = None,
    task: Task | None = None,
    on_entry: OnEntry | None = None,
    on_rate: OnRate | None = None,
    trust: bool = False,
) -> RetrainResult:
    """Retrain a selected model from the dense weights, with its schedule, once for each seed.

    `seeds` are the seeds, or how many (0, 1, ...). `distillation` replaces that of the
    trial, and `lr` its peak learning rate; without it SGD's grows with the square root of the
    length (at most fourfold), since a long training wants a higher one. With `find_lr` a quarter,
    half, one and two times that rate are tried in short trainings on the first seed, judged on
    validation data (half as long as one seed's training together; `on_rate(RateTrial)` is called
    after each). `recovery` replaces other settings of the trial, as in the space's section of that
    name, such as `{"ema": 0.99, "label_smoothing": 0.1}` (with another optimizer rate and weight
    decay are that one's own, unless they are given), and `schedule` when units are removed,
    such as `{"kind": "cubic"}`: in 4 steps in the first half of the training. An int8 model is
    quantized at the end, and the last fifth of its training simulates int8 where its trial lost
    more than 1 % of the metric by that; `quantization_aware` says otherwise. The test split
    is read once for each finished model. Written to `retrained/<trial>/` in the run's folder:
    `seed-<n>/`, `summary.json` with the latency of the first seed's model, measured beside the
    dense one, and a model card, `README.md`. An interrupted retraining is resumed when it is called
    again, a finished one is returned, and further seeds are added to it. `on_entry(seed, entry)` is
    called after each validation. `trust` as for `resume`. Raises StoreError where the folder holds
    another retraining or nothing fits `pick`, UsageError where an argument does not fit,
    TrainingError where the loss becomes NaN.
    """
    from autoprune._retraining.trial import retrain_trial

    run, record = picked(RunFolder.open(path), pick)
    config = run.config
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    replaced = {"lr": lr, "distillation": distillation}
    replaced = {name: value for name, value in replaced.items() if value is not None}
    folder = retrain_trial(
        run,
        config,
        _task_of_run(run, task, trust),
        record,
        epochs=epochs,
        seeds=numbers,
        recovery={**constants("recovery", recovery or {}), **replaced},
        schedule=constants("schedule", schedule or {}),
        find_lr=find_lr,
        quantization_aware=quantization_aware,
        on_entry=on_entry,
        on_rate=on_rate,
    )
    return RetrainResult(folder.path, folder.summary())


def export(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    output: str | Path | None = None,
    pick: str = RECOMMENDED,
    dynamic_batch: bool = False,
    task: Task | None = None,
    precision: Precision = "float32",
    quantization: QuantizationSettings | None = None,
    test: bool = False,
    trust: bool = False,
) -> Exported:
    """Write a saved model for a runtime, load the file there and compare outputs.

    `format` is `onnx`, `pt2`, `openvino`, `ncnn`, `executorch`, `litert`, `coreml` (the last five
    are extras) or `packed`; by default what the ending of `output` says, or else `onnx`. `path`,
    `pick` and `trust` as for `load`; `pick="dense"` is the dense model of a run, to compare with
    (`dense.<ending>`). `output` defaults to `model.<ending>` in the model's folder; some formats
    put the weights into a second file beside it. The format `packed` is a compressed file without
    the zeros of sparse weights, for `load` and `export`; its size is the cost
    `file_bytes`, and it is read again and compared bit for bit. With `dynamic_batch`, here or in
    `quantization`, the batch size is left free (not of `packed`, which has none).

    With `precision="int8"` the model is quantized after training, calibrated on training samples as
    `quantization` says (see `QuantizationSettings`), and written as ONNX, by default to
    `model.int8.onnx`. Metrics of float32 and int8 on the validation split (with `test` on the test
    split too), sizes and latencies, measured in turns, are in the result's `quantization`, and
    in `int8.json` in the model's folder. Raises ExportError where the written model does not agree,
    or cannot be quantized. A `coreml` package is not run, since that needs macOS: `ran` is False in
    the result, and compared is the program that it was converted from.
    """
    from autoprune._export import FORMATS, export_int8, export_model, export_packed

    if precision not in get_args(Precision):
        raise UsageError(f"precision must be one of float32, int8, got {precision!r}")
    if precision == "float32" and (quantization is not None or test):
        raise UsageError("quantization and test need precision='int8'")
    if precision == "int8" and format not in (None, "onnx"):
        raise UsageError(f"an int8 model is written as onnx, got format {format!r}")
    asked = format or Path(output or "").suffix.removeprefix(".")
    if dynamic_batch and precision == "float32" and asked == "packed":
        raise UsageError(
            "dynamic_batch is for files that a runtime runs, got format 'packed' · leave it out"
        )
    if word_of(pick) == DENSE and not is_model(path):
        if precision == "int8" or format == "packed":
            raise UsageError(
                "pick dense is written as float32, and not packed · autoprune quantize RUN writes "
                "dense.int8.onnx"
            )
        return _export_dense(RunFolder.open(path), format, output, dynamic_batch, task, trust)
    model, found, folder = load_with_task(path, pick=pick, task=task, trust=trust)
    inside = folder.parent if folder.is_file() else folder
    if precision == "int8":
        settings = quantization or QuantizationSettings()
        settings = replace(settings, dynamic_batch=dynamic_batch or settings.dynamic_batch)
        file = Path(output) if output is not None else inside / INT8_FILE
        threads = _threads(folder)
        done = export_int8(model, file, found, inside, settings, threads=threads, test=test)
        return replace(done, model=model_words(folder))
    name = format or "onnx"
    default = FORMATS[name].file if name in FORMATS else f"model.{name}"
    file = Path(output) if output is not None else inside / default
    if (format or file.suffix.removeprefix(".")) == "packed":
        return replace(export_packed(file, *saved(folder)), model=model_words(folder))
    done = export_model(
        model, file, found.example_input(), format=format, dynamic_batch=dynamic_batch
    )
    meant = saved(folder)[0].candidate.architecture.precision
    return replace(done, model=model_words(folder), precision=meant)


def _export_dense(
    run: RunFolder,
    format: str | None,  # noqa: A002
    output: str | Path | None,
    dynamic_batch: bool,
    task: Task | None,
    trust: bool,
) -> Exported:
    from autoprune._export import FORMATS, export_model

    run.check_single()
    found = _task_of_run(run, task, trust)
    name = format or "onnx"
    default = FORMATS[name].file if name in FORMATS else f"model.{name}"
    file = Path(output) if output is not None else run.path / default.replace("model", DENSE, 1)
    model, example = load_dense(found).eval(), found.example_input()
    done = export_model(model, file, example, format=format, dynamic_batch=dynamic_batch)
    return replace(done, model="the dense model")


def compare(*runs: str | Path | Result) -> Comparison:
    """Compare finished runs of the same objectives: fronts at equal cost, and what differs.

    The comparison has tables (`runs`, `at_cost`, `differences` as data frames); `print` shows it as
    the command does. Raises UsageError for fewer than two runs, without a front, or with other
    objectives; StoreError where a run is damaged.
    """
    from autoprune.report.comparison import Comparison
    from autoprune.report.read import read

    paths = (run.path if isinstance(run, Result) else Path(run) for run in runs)
    return Comparison(tuple(read(path) for path in paths))


def quantize(
    path: str | Path,
    *,
    quantization: QuantizationSettings | None = None,
    test: bool = False,
    task: Task | None = None,
    trust: bool = False,
) -> FrontQuantization:
    """Quantize the dense model of a run and every member of its front, as `export` does.

    Of a member that was retrained, it is the retrained model of the first seed. All are measured in
    turns with the dense float32 model. The run's folder gets `dense.int8.onnx` and
    `dense.int8.json`, the folder of each member's model `model.int8.onnx` and `int8.json`. A member
    without a saved model, or one that cannot be quantized, is `skipped`. `trust` as for `resume`.
    Static post-training quantization with a scale for each output channel (Jacob et al. 2018,
    arXiv:1712.05877).
    """
    from autoprune.quantization import quantize_front

    run = RunFolder.open(path)
    members = Result.read(path).front.members
    job, settings = _task_of_run(run, task, trust), quantization or QuantizationSettings()
    with run.writing():
        return quantize_front(
            run,
            {record.number: partial(_newest, run, record, job) for record in members},
            job,
            settings,
            threads=_threads(run.path),
            test=test,
        )


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
    return load_with_task(folder, task=task)[0], folder


def _task_of_run(run: RunFolder, task: Task | None, trust: bool) -> Task:
    """The given task, or the one that a run names, if its code may run here."""
    config = run.config
    remote = any("://" in target.runtime for target in config.targets.values())
    if task is None or remote or config.search.baselines.smaller:
        check_run(config, run.path, trust=trust)
    return task or task_of(config)


def _threads(folder: Path) -> int:
    """Those of the run's first device, 1 for a model outside a run; at most the cores here."""
    from autoprune.cost.targets import cores

    config = config_around(folder)
    return min(next(iter(config.targets.values())).threads, cores()) if config else 1
