"""What the commands print on: any terminal or pipe, whatever its encoding."""

from __future__ import annotations

import codecs
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from autoprune.printable import printable, quoted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from autoprune._search.state.progress import Snapshot

USAGE, FAILED, INTERRUPTED = 2, 1, 130
_PAGE = 140
_LONGEST = 4000  # of an error
_ASCII = {
    "·": "-",
    "–": "-",
    "−": "-",
    "×": "x",
    "±": "+-",
    "≤": "<=",
    "→": "->",
    "…": "...",
    "▲": "*",
    "◇": "?",
    "◊": "s",
    "★": "R",
    "≥": ">=",
    "▫": "o",
    "█": "#",
    "░": ".",
}


def prepare_streams() -> None:
    """Let characters that the terminal's encoding lacks be written as ASCII ones like them."""
    codecs.register_error("autoprune-ascii", _as_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="autoprune-ascii")


def drop_output() -> None:
    """Write what is still to come to nowhere: whoever read the output has closed the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def prepare_log() -> None:
    """Log warnings to stderr, without control characters: texts of others may be in them."""

    class Printable(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return str(printable(super().format(record)))

    handler = logging.StreamHandler()
    handler.setFormatter(Printable("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def say(what: RenderableType) -> None:
    """Print a line, a table or a panel; raises BrokenPipeError where nobody reads it.

    In a pipe no line is wrapped, and none ends with blanks.
    """
    what = printable(what) if isinstance(what, str) else what
    where = console()
    if where.is_terminal:
        where.print(what, soft_wrap=isinstance(what, str), highlight=False, markup=False)
        return
    with where.capture() as held:
        where.print(what, soft_wrap=True, highlight=False, markup=False)
    lines = (line.rstrip() for line in held.get().split("\n"))
    try:
        where.file.write("\n".join(lines))
        where.file.flush()
    except BrokenPipeError:
        raise BrokenPipeError from None  # without a number, of which Click makes exit code 1


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line of error."""
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    with suppress(OSError):  # of a terminal that hung up
        sys.stderr.write(f"error: {printable(shown)}\n")
    raise SystemExit(code)


def traceback_file(error: Exception) -> Path:
    """A new file with the traceback of an error."""
    lines = traceback.format_exception(error)
    with tempfile.NamedTemporaryFile(
        "w", prefix="autoprune-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.writelines(lines)
    return Path(file.name)


def console() -> Console:
    """The terminal; for a pipe a wide page, so that no table is cut."""
    from rich.console import Console

    class Quiet(Console):
        """A console that leaves a closed pipe to `main`."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    found = Quiet()
    return found if found.is_terminal else Quiet(width=_PAGE)


class Watch:
    """Shows a running search: a live panel in a terminal, a line for each step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last: tuple[str, str, int] | None = None
        self._is_lost = False

    def update(self, snapshot: Snapshot) -> None:
        """Show the newest state, as long as anybody reads it: the search goes on without."""
        if self._is_lost:
            return
        try:
            self._show(snapshot)
        except OSError:  # a closed pipe, a terminal that hung up
            self._is_lost = True

    def _show(self, snapshot: Snapshot) -> None:
        snapshot = replace(snapshot, note=str(printable(snapshot.note)))
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
            with suppress(OSError):
                self._live.stop()


@contextmanager
def watching(run: Path, quiet: bool) -> Iterator[Watch | None]:
    """Progress while a search runs; Ctrl-C and signals end it with the way to resume it."""
    watch = None if quiet else Watch(console())
    try:
        yield watch
    except KeyboardInterrupt as error:
        if watch is not None:
            watch.stop()
        from autoprune.store import RunFolder

        fail(
            f"stopped; finished trials are saved · resume with: autoprune resume {quoted(run)}"
            if RunFolder.is_run(run)
            else "stopped before the run began; nothing was written",
            code_of(error),
        )
    finally:
        if watch is not None:
            watch.stop()


def code_of(interrupt: KeyboardInterrupt) -> int:
    """The exit code: 128 + the signal's number."""
    number = getattr(interrupt, "signum", None)
    return INTERRUPTED if number is None else 128 + int(number)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise a KeyboardInterrupt with `signum`."""
    from autoprune._search.trials.interrupts import SIGNALS, Terminated

    def end(number: int, _: FrameType | None) -> None:
        raise Terminated(number)

    before = {which: signal.signal(which, end) for which in SIGNALS}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _as_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign, "?") for sign in text), error.end
