"""The commands. Only this module prints.

A mistake ends in one line and exit code 2, failed work in one line and exit code 1.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from autoprune.errors import AutopruneError, UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from autoprune._search.progress import Snapshot
    from autoprune.api import Result

USAGE, FAILED, INTERRUPTED = 2, 1, 130
_PAGE = 140

app = typer.Typer(
    help="Search pruned models within a device's budget; inspect the front; retrain and export "
    "the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich loads only when something is shown
)

PICK = "knee, fastest, best, trial=N or a limit such as 'latency_ms<=3'"
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
PickOption = Annotated[str, typer.Option(help=PICK)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 0, 1 (failed work), 2 (usage) or 130 (Ctrl-C)."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app(arguments)
    except AutopruneError as error:
        _fail(str(error), USAGE if isinstance(error, UsageError) else FAILED)
    except KeyboardInterrupt:
        _fail("stopped", INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last resort: one line, the rest to a file
        text = " ".join(str(error).split())[:300]
        _fail(f"{type(error).__name__}: {text} · traceback in {_traceback_file(error)}", FAILED)


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
        reference = os.path.relpath(task_file, config.parent)
        files = {config: CONFIG.format(task=f"{reference}:MyTask"), task_file: TASK}
    for file in files:
        if file.exists():
            raise UsageError(f"{file} exists and stays as it is · choose another name")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        _say(f"wrote {file}")
    _say(f"next: autoprune search {config}")


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
    with _watching(folder, quiet) as progress:
        result = run_config(placed, progress=progress)
    _finish(result)


@app.command()
def resume(run: RunArgument, quiet: Quiet = False) -> None:
    """Go on with a search that was stopped."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is said at once
    from autoprune import api

    with _watching(run, quiet) as progress:
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
    _say(terminal.show(view) if trial is None else terminal.trial(view, trial))


@app.command()
def report(
    run: RunArgument,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the run's report: one HTML file that needs nothing else."""
    from autoprune.report.html import write
    from autoprune.store import RunFolder

    file = write(RunFolder.open(run))
    _say(f"wrote {file}")
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
    quiet: Quiet = False,
) -> None:
    """Train a pick in full from the dense weights, and test it."""
    from autoprune.store import RunFolder

    RunFolder.open(run)  # before torch is loaded: a wrong folder is said at once
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
            on_entry=None if quiet else _say_entry,
        )
    except KeyboardInterrupt:
        _fail("stopped; what was trained is saved · the same command goes on", INTERRUPTED)
    _say(terminal.retrained_table(read(run)))
    for line in _speeds(done.summary):
        _say(line)
    _say(f"wrote {done.path}")
    _say(f"next  autoprune export {done.path} --format onnx")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run or a saved model.")],
    format: Annotated[  # noqa: A002
        str | None, typer.Option(help="onnx or pt2; default: the ending of --output, or onnx.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: model.FORMAT beside the model.")
    ] = None,
    pick: PickOption = "knee",
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch size free.")] = False,
) -> None:
    """Write a model for another runtime, load it there and compare the outputs."""
    from autoprune import api
    from autoprune.report import text

    written = api.export(path, format=format, output=output, pick=pick, dynamic_batch=dynamic_batch)
    size = text.cost("weight_bytes", written.size_bytes)
    _say(f"wrote {written.path} ({size}, {written.exporter})")
    _say(f"loaded again: outputs agree within {written.difference:.1e} of the largest")


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
    """Count and time the dense model, layer by layer; with -o, learn what prunings cost."""
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
        _say(render(target, measure(task, runtimes=chosen, threads=threads, batch=batch)))
        return
    if len(chosen) != 1:
        raise UsageError("a device profile is of one runtime · add e.g. --runtime onnxruntime")
    if output.exists():
        raise UsageError(f"{output} is there already · remove it, or write elsewhere")
    from autoprune.profile import fit_device

    made = fit_device(task, chosen[0], threads=threads, batch=batch, samples=samples)
    made.save(output)
    fit = made.predictor
    _say(f"measured {len(fit.samples)} prunings of {target}: {made.device}")
    _say(
        f"dense {fit.dense_ms:.3g} ms; on unseen prunings off by {fit.error:.1%}, 95 % stay below "
        f"{fit.upper_factor:.2f} x predicted"
    )
    _say(f"wrote {output}")
    _say(f"next  device: {output} in the configuration of a search")


def _common(name: str, values: Sequence[int]) -> int:
    """What all devices of a configuration have; 1 without any."""
    if len(set(values)) > 1:
        raise UsageError(f"the devices differ in {name} · say for which: --{name} {values[0]}")
    return values[0] if values else 1


def _finish(result: Result) -> None:
    from autoprune.report import terminal
    from autoprune.report.read import read

    _say(terminal.show(read(result.path)))
    _say(f"run     {result.path}")
    _say(f"next    autoprune report {result.path}")
    if result.front.members:
        _say(f"        autoprune retrain {result.path} --pick knee --epochs 20")


def _speeds(summary: Mapping[str, Any]) -> Iterator[str]:
    """For each device, the retrained model's latency beside the dense one's, measured in turns."""
    from autoprune.budget import Cost
    from autoprune.fields import field_at

    small, dense = Cost.from_dict(summary["measured"]), Cost.from_dict(summary["dense"]["measured"])
    for name in small.names or ("",):
        field, on = field_at("latency_ms", name), f" on {name}" if name else ""
        ours, theirs, sure = small.value(field), dense.value(field), small.confidence_of(name)
        if ours is None or theirs is None:
            yield "latency not measured: the search's devices are other machines"
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
    _say(f"seed {seed} · epoch {entry['epoch']:g} · {facts}")


class _Watch:
    """Shows a running search: a live panel in a terminal, a line for each step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last: tuple[str, str, int] | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state."""
        from rich.live import Live

        from autoprune.report.live import line, panel

        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4)
                self._live.start()
            self._live.update(panel(snapshot))
            return
        step = (snapshot.phase, snapshot.note, snapshot.done)
        if step != self._last:
            self._last = step
            self._console.print(line(snapshot), soft_wrap=True, highlight=False, markup=False)

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()


@contextmanager
def _watching(run: Path, quiet: bool) -> Iterator[_Watch | None]:
    """Progress while a search runs; Ctrl-C ends it with the way to go on."""
    watch = None if quiet else _Watch(_console())
    try:
        yield watch
    except KeyboardInterrupt:
        if watch is not None:
            watch.stop()
        known = (run / "config.yaml").is_file()
        _fail(
            f"stopped; what has finished is saved · go on with: autoprune resume {run}"
            if known
            else "stopped before the run began; nothing was written",
            INTERRUPTED,
        )
    finally:
        if watch is not None:
            watch.stop()


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PAGE)  # pipes cut no table


def _say(what: RenderableType) -> None:
    _console().print(what, soft_wrap=isinstance(what, str), highlight=False, markup=False)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(code)


def _traceback_file(error: Exception) -> Path:
    lines = traceback.format_exception(error)
    with tempfile.NamedTemporaryFile(
        "w", prefix="autoprune-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.writelines(lines)
    return Path(file.name)
