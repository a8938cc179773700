"""Commands that read runs: show, report, compare."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.application import RunArgument, app
from autoprune.cli.terminal import say


@app.command()
def show(
    run: RunArgument,
    trial: Annotated[int | None, typer.Option(help="One trial in detail.")] = None,
) -> None:
    """Print the front as a table, or one trial."""
    from autoprune.report import terminal
    from autoprune.report import trial as trials
    from autoprune.report.read import read
    from autoprune.store import RunFolder

    folder = RunFolder.open(run)
    if folder.config.starting_models and trial is None:
        from autoprune.joint import JointFront
        from autoprune.report import joint

        say(joint.show(JointFront.read(folder)))
        return
    view = read(folder)
    say(terminal.show(view) if trial is None else trials.trial(view, trial))


@app.command()
def report(
    run: RunArgument,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            help="html; md and csv are tables of the front, png is its picture. "
            "Default: by --output, or html."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: a file in the run.")
    ] = None,
    show_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the run's report: one HTML file that needs nothing else, a table or a picture."""
    from autoprune.report import formats, joint
    from autoprune.store import RunFolder

    folder = RunFolder.open(run)
    if folder.config.starting_models:
        file = joint.write(folder, format, output)
        for single in (
            joint.single_reports(folder) if formats.format_of(format, output) == "html" else ()
        ):
            say(f"wrote {single}")
    else:
        file = formats.write(folder, format, output)
    say(f"wrote {file}")
    if show_it:
        webbrowser.open(file.resolve().as_uri())


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two runs or more.")],
) -> None:
    """Compare runs: fronts at equal cost, hypervolume, compute, and what differs in them."""
    from autoprune import api

    say(api.compare(*runs))
