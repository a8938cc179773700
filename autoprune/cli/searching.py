"""Commands around a search: init, search, resume, verify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.application import Quiet, RunArgument, Trust, app
from autoprune.cli.terminal import say, watching
from autoprune.errors import UsageError
from autoprune.printable import quoted

if TYPE_CHECKING:
    from autoprune.joint import JointFront
    from autoprune.result import Result


@app.command()
def init(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The file to write.")] = Path(
        "budget.yaml"
    ),
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
    say(f"next: {_to_write(config, task, task_file)}autoprune search {quoted(config)}")


def _to_write(config: Path, task: str, task_file: Path | None) -> str:
    """What has to be done before a search: the file of the task that is not there."""
    named = task.rpartition(":")[0]
    if task_file is not None or not named.endswith(".py") or (config.parent / named).is_file():
        return ""
    return f"write {quoted(config.parent / named)} (--task-file makes one to fill in), then "


@app.command()
def search(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The configuration, a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a key, e.g. search.trials=5."),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Use profiles, sensitivities and trials of an earlier run again."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Search a front of smaller models within the budget."""
    from autoprune.config import RunConfig

    earlier = [f"from_run={from_run.resolve()}"] if from_run else []
    loaded = RunConfig.load(config, [*(overrides or ()), *earlier])
    from autoprune.api import run_config, run_name

    folder = Path(loaded.output or Path("results") / run_name(loaded.task))
    placed = loaded.model_copy(update={"output": str(folder)})
    if placed.starting_models:
        from autoprune.starting_models import search_starts

        with watching(folder, quiet) as progress:
            joint = search_starts(placed, progress=progress)
        _finish_joint(joint)
        return
    with watching(folder, quiet) as progress:
        result = run_config(placed, progress=progress)
    _finish(result)


@app.command()
def resume(
    run: RunArgument,
    trials: Annotated[
        str | None,
        typer.Option(help="Trials in all, or +20 for 20 more; also of a finished search."),
    ] = None,
    minutes: Annotated[
        str | None, typer.Option(help="Minutes in all, or +10 for 10 more; likewise.")
    ] = None,
    quiet: Quiet = False,
    trust: Trust = False,
) -> None:
    """Resume an interrupted search, or continue a finished one."""
    from autoprune.store import RunFolder

    has_several = bool(RunFolder.open(run).config.starting_models)  # before torch is loaded
    from autoprune import api

    if has_several:
        from autoprune.starting_models import resume_starting_models

        if minutes is not None:
            raise UsageError("--minutes is for one run · give --trials, or name one in starts/")
        with watching(run, quiet) as progress:
            found = resume_starting_models(run, trials=trials, progress=progress, trust=trust)
        _finish_joint(found)
        return
    with watching(run, quiet) as progress:
        result = api.resume(run, trials=trials, minutes=minutes, progress=progress, trust=trust)
    _finish(result)


@app.command()
def verify(run: RunArgument, quiet: Quiet = False, trust: Trust = False) -> None:
    """Measure the front again, such as after a search on a busy machine."""
    from autoprune.store import RunFolder

    has_several = bool(RunFolder.open(run).config.starting_models)  # before torch is loaded
    from autoprune import api

    if has_several:
        from autoprune.starting_models import verify_starting_models

        with watching(run, quiet) as progress:
            found = verify_starting_models(run, progress=progress, trust=trust)
        _finish_joint(found)
        return
    with watching(run, quiet) as progress:
        result = api.verify(run, progress=progress, trust=trust)
    _finish(result)


def _finish_joint(found: JointFront) -> None:
    from autoprune.report import joint

    say(joint.show(found))
    say(f"run     {found.run.path}, one for each starting model in its folder starts")
    say(f"next    autoprune report {quoted(found.run.path)}")
    say(f"        autoprune retrain {quoted(found.run.path)} --epochs 20")


def _finish(result: Result) -> None:
    from autoprune.report import terminal
    from autoprune.report.read import read

    say(terminal.show(read(result.path)))
    say(f"run     {result.path}")
    say(f"next    autoprune report {quoted(result.path)}")
    if result.front.members:
        say(f"        autoprune retrain {quoted(result.path)} --epochs 20")
