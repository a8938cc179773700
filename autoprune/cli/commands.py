"""The commands."""

from __future__ import annotations

import logging
import os
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from autoprune.cli.terminal import (
    FAILED,
    INTERRUPTED,
    USAGE,
    drop_output,
    fail,
    prepare_streams,
    say,
    traceback_file,
    watching,
)
from autoprune.errors import AutopruneError, UsageError

if TYPE_CHECKING:
    from autoprune.api import Result
    from autoprune.store import QuantizationSettings, RetrainingSummary

_log = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich loads only when something is shown
)

_MAX_DROP = 0.01
PICK = "knee, fastest, best, trial=N or a limit such as 'latency_ms<=3'"
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
PickOption = Annotated[str, typer.Option(help=PICK)]
CalibrationSamples = Annotated[
    int | None, typer.Option(min=1, help="int8: training samples for ranges. Default: 512.")
]
CalibrationMethod = Annotated[
    str | None,
    typer.Option("--calibration", help="int8: percentile, minmax or entropy. Default: percentile."),
]
WeightBits = Annotated[
    int | None,
    typer.Option(
        min=7, max=8, help="int8: 8 is for processors with int8 dot products. Default: 7."
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="int8: warn where the metric is worse by this share. Default: 0.01."
    ),
]
Split = Annotated[
    str | None, typer.Option(help="int8: val; or test, to read the test split too. Default: val.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 0, 1 (failed work), 2 (user error) or 130 (Ctrl-C)."""
    prepare_streams()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app(arguments)
    except BrokenPipeError:  # such as `| head`: what it wanted it has
        drop_output()
        raise SystemExit(0) from None
    except AutopruneError as error:
        _log.debug("the command failed", exc_info=True)
        fail(str(error), USAGE if isinstance(error, UsageError) else FAILED)
    except KeyboardInterrupt:
        fail("stopped", INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort: one line, the rest to a file
        text = " ".join(str(error).split())[:300]
        fail(f"{type(error).__name__}: {text} · traceback in {traceback_file(error)}", FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        import autoprune

        say(f"autoprune {autoprune.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log details and tracebacks to stderr.")
    ] = False,
) -> None:
    """Search pruned models within a device's budget; inspect the front; retrain and export."""
    logging.getLogger("autoprune").setLevel(logging.DEBUG if verbose else logging.NOTSET)


@app.command()
def init(
    config: Annotated[Path, typer.Argument(help="The file to write.")] = Path("budget.yaml"),
    task: Annotated[str, typer.Option(help="The task it names.")] = "digits",
    task_file: Annotated[
        Path | None, typer.Option(help="Also write a task to fill in, and name it.")
    ] = None,
) -> None:
    """Write a commented configuration, and a task to fill in. Never overwrites."""
    from autoprune.templates import CONFIG, TASK

    files = {config: CONFIG.format(task=task)}
    if task_file is not None:
        if task_file.suffix != ".py":
            raise UsageError(f"--task-file must end in .py, got {task_file}")
        reference = Path(os.path.relpath(task_file, config.parent)).as_posix()
        files = {config: CONFIG.format(task=f"{reference}:MyTask"), task_file: TASK}
    for file in files:
        if file.exists():
            raise UsageError(f"{file} exists and is not overwritten · choose another name")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        say(f"wrote {file}")
    say(f"next: autoprune search {config}")


@app.command()
def search(
    config: Annotated[Path, typer.Argument(help="The configuration, a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a key, e.g. search.trials=5."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Search a front of smaller models within the budget."""
    from autoprune.config import RunConfig

    loaded = RunConfig.load(config, overrides or ())
    from autoprune.api import run_config, run_name

    folder = Path(loaded.output or Path("results") / run_name(loaded.task))
    placed = loaded.model_copy(update={"output": str(folder)})
    with watching(folder, quiet) as progress:
        result = run_config(placed, progress=progress)
    _finish(result)


@app.command()
def resume(run: RunArgument, quiet: Quiet = False) -> None:
    """Resume an interrupted search."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is reported at once
    from autoprune import api

    with watching(run, quiet) as progress:
        result = api.resume(run, progress=progress)
    _finish(result)


@app.command()
def show(
    run: RunArgument,
    trial: Annotated[int | None, typer.Option(help="One trial in detail.")] = None,
) -> None:
    """Print the front as a table, or one trial."""
    from autoprune.report import terminal
    from autoprune.report.read import read

    view = read(run)
    say(terminal.show(view) if trial is None else terminal.trial(view, trial))


@app.command()
def report(
    run: RunArgument,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the run's report: one HTML file that needs nothing else."""
    from autoprune.report.html import write
    from autoprune.store import RunFolder

    file = write(RunFolder.open(run))
    say(f"wrote {file}")
    if show_it:
        webbrowser.open(file.resolve().as_uri())


@app.command()
def retrain(
    run: RunArgument,
    pick: PickOption = "knee",
    epochs: Annotated[float, typer.Option(help="Epochs of training for each seed.")] = 20.0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate instead of the trial's.")
    ] = None,
    distillation: Annotated[
        float | None, typer.Option(help="Distillation weight instead of the trial's.")
    ] = None,
    quantization_aware: Annotated[
        bool | None,
        typer.Option(
            "--quantization-aware/--no-quantization-aware",
            help="Simulate int8 in the last fifth of training (default: where it lost 1 %).",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Retrain a selected model from the dense weights, and test it."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is reported at once
    from autoprune import api
    from autoprune.report import terminal
    from autoprune.report.read import read

    try:
        done = api.retrain(
            run,
            pick=pick,
            epochs=epochs,
            seeds=seeds,
            lr=lr,
            distillation=distillation,
            quantization_aware=quantization_aware,
            on_entry=None if quiet else _say_entry,
        )
    except KeyboardInterrupt:
        fail("stopped; checkpoints are saved · the same command resumes", INTERRUPTED)
    say(terminal.retrained_table(read(run)))
    for line in _speeds(done.summary):
        say(line)
    say(f"wrote {done.path}")
    say(f"next  autoprune export {done.path} --format onnx")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run or a saved model.")],
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="onnx, pt2, packed; default: the ending of --output, or onnx."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: model.FORMAT beside the model.")
    ] = None,
    pick: PickOption = "knee",
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch size free.")] = False,
    precision: Annotated[str, typer.Option(help="float32, or int8: quantized.")] = "float32",
    calibration_samples: CalibrationSamples = None,
    calibration: CalibrationMethod = None,
    weight_bits: WeightBits = None,
    max_drop: MaxDrop = None,
    split: Split = None,
) -> None:
    """Write a model for another runtime, load it there and compare the outputs."""
    settings = _settings(calibration_samples, calibration, weight_bits)
    if precision == "float32" and (settings or max_drop is not None or split is not None):
        raise UsageError("calibration, --weight-bits, --max-drop and --split need --precision int8")
    test = _is_test(split)
    from autoprune import api
    from autoprune.report import text

    written = api.export(
        path,
        format=format,
        output=output,
        pick=pick,
        dynamic_batch=dynamic_batch,
        precision=cast("api.Precision", precision),
        quantization=_quantization(settings) if precision == "int8" else None,
        test=test,
    )
    size = text.cost("weight_bytes", written.size_bytes)
    say(f"wrote {written.path} ({size}, {written.exporter})")
    if written.format == "packed":
        say("read again: every weight is the same, bit for bit")
        return
    if written.quantization is None:
        say(f"reloaded: outputs agree within {written.difference:.1e} of the largest")
        return
    from autoprune.report import int8

    for line in int8.lines(written.quantization):
        say(line)
    for line in int8.warnings(written.quantization, _MAX_DROP if max_drop is None else max_drop):
        say(f"warning: {line}")


@app.command()
def quantize(
    run: RunArgument,
    calibration_samples: CalibrationSamples = None,
    calibration: CalibrationMethod = None,
    weight_bits: WeightBits = None,
    max_drop: MaxDrop = None,
    split: Split = None,
) -> None:
    """Write int8 files of the dense model and of every model of the front, and compare them."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is reported at once
    settings = _quantization(_settings(calibration_samples, calibration, weight_bits))
    test = _is_test(split)
    from autoprune import api
    from autoprune.report import int8

    found = api.quantize(run, quantization=settings, test=test)
    say(int8.front_table(found))
    limit = _MAX_DROP if max_drop is None else max_drop
    for line in int8.warnings(found.dense, limit):
        say(f"warning: dense: {line}")
    for number, report in found.members.items():
        for line in int8.warnings(report, limit):
            say(f"warning: trial {number}: {line}")


@app.command()
def profile(
    target: Annotated[str, typer.Argument(metavar="TASK_OR_CONFIG", help="What to look at.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            "--target",
            help="Runtime, or ssh://user@host; may be repeated. "
            "Default: the configuration's, or torch and onnxruntime.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one forward pass. Default: 1.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Inputs of one forward pass. Default: 1.")
    ] = None,
    samples: Annotated[int, typer.Option(min=10, help="Most prunings to measure for -o.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Measure prunings too; write a device profile."),
    ] = None,
) -> None:
    """Count and time the dense model, layer by layer; with -o, fit a latency predictor."""
    from autoprune.config import RunConfig

    config = RunConfig.load(target) if target.endswith((".yaml", ".yml")) else None
    from autoprune import api
    from autoprune.profile import profile as measure
    from autoprune.report.profile import render
    from autoprune.tasks.load import load_task

    task = api.task_of(config) if config else load_task(target)
    places = list(config.targets.values()) if config else []
    known = dict.fromkeys(place.runtime for place in places)
    chosen = tuple(runtime or known or ("torch", "onnxruntime"))
    threads = threads or _common("threads", [place.threads for place in places])
    batch = batch or _common("batch", [place.batch for place in places])
    if output is None:
        say(render(target, measure(task, runtimes=chosen, threads=threads, batch=batch)))
        return
    if len(chosen) != 1:
        raise UsageError("a device profile is of one runtime · add e.g. --runtime onnxruntime")
    if output.exists():
        raise UsageError(f"{output} exists and is not overwritten · choose another name")
    from autoprune.profile import fit_device

    made = fit_device(task, chosen[0], threads=threads, batch=batch, samples=samples)
    made.save(output)
    fit = made.predictor
    say(f"measured {len(fit.samples)} prunings of {target}: {made.device}")
    say(
        f"dense {fit.dense_ms:.3g} ms; mean error on held-out prunings {fit.error:.1%}, 95 % stay "
        f"below {fit.upper_factor:.2f} x predicted"
    )
    say(f"wrote {output}")
    say(f"next  device: {output} in the configuration of a search")


def _settings(
    samples: int | None, method: str | None, weight_bits: int | None
) -> dict[str, int | str]:
    """What was said of quantization, by the names of `QuantizationSettings`."""
    said = {"samples": samples, "method": method, "weight_bits": weight_bits}
    return {name: value for name, value in said.items() if value is not None}


def _quantization(said: Mapping[str, Any]) -> QuantizationSettings:
    from autoprune.store import QuantizationSettings

    return QuantizationSettings(**said)


def _is_test(split: str | None) -> bool:
    if split not in (None, "val", "test"):
        raise UsageError(f"--split must be val or test, got {split!r}")
    return split == "test"


def _common(name: str, values: Sequence[int]) -> int:
    """What all devices of a configuration have; 1 without any."""
    if len(set(values)) > 1:
        raise UsageError(f"the devices differ in {name} · choose one: --{name} {values[0]}")
    return values[0] if values else 1


def _finish(result: Result) -> None:
    from autoprune.report import terminal
    from autoprune.report.read import read

    say(terminal.show(read(result.path)))
    say(f"run     {result.path}")
    say(f"next    autoprune report {result.path}")
    if result.front.members:
        say(f"        autoprune retrain {result.path} --pick knee --epochs 20")


def _speeds(summary: RetrainingSummary) -> Iterator[str]:
    """For each device, the retrained model's latency beside the dense one's, measured in turns."""
    from autoprune.budget import Cost
    from autoprune.cost_fields import field_at

    small, dense = summary.measured or Cost(), summary.dense.measured or Cost()
    for name in small.names or ("",):
        field, on = field_at("latency_ms", name), f" on {name}" if name else ""
        ours, theirs, sure = small.value(field), dense.value(field), small.confidence_of(name)
        if ours is None or theirs is None:
            yield "latency not measured: the target devices are other machines"
            continue
        gain, note = 1.0 / sure.ratio if sure else theirs / ours, small.note(name)
        yield (
            f"measured {ours:.3g} ms{on}, dense {theirs:.3g} ms: {gain:.2f} times the speed "
            f"({small.device_of(name)})" + (f" · {note}" if note else "")
        )


def _say_entry(seed: int, entry: Mapping[str, float]) -> None:
    from autoprune.report import text

    shown = [name for name in entry if name not in ("epoch", "lr", "params")]
    facts = ", ".join(f"{name} {text.metric(name, entry[name])}" for name in shown)
    say(f"seed {seed} · epoch {entry['epoch']:g} · {facts}")
