"""The application, and the arguments that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.terminal import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: rich loads only when something is shown
)

PICK = (
    "recommended, knee, fastest, best, trial=N, or limits such as 'latency_ms<=3' and "
    "'accuracy>=0.9, min latency_ms'"
)
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]
PickOption = Annotated[str, typer.Option(help=PICK)]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import the task that the folder names, whoever wrote it.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


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
