"""What is printed reaches any terminal or pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from autoprune._search.state.progress import Snapshot
from autoprune._search.trials.interrupts import Terminated
from autoprune.cli import terminal


def test_a_terminal_that_knows_ascii_only_is_served(shown_run: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"}
    command = [sys.executable, "-m", "autoprune", "show"]
    done = subprocess.run([*command, shown_run], capture_output=True, env=environment, check=True)
    printed = done.stdout.decode("ascii")
    assert "* knee" in printed
    assert "<= " in printed
    assert "?" not in printed
    failed = subprocess.run([*command, "x"], capture_output=True, env=environment, check=False)
    assert failed.stderr.decode("ascii").count("\n") == 1
    assert b" - a run is" in failed.stderr


def test_control_characters_do_not_reach_the_terminal(command_line, tmp_path: Path) -> None:
    code, _, err = command_line("show", tmp_path / "a\x1b[2Jb")
    assert (code, "\x1b" in err) == (2, False)


SNAPSHOT = Snapshot(
    "search",
    trials=20,
    running=2,
    complete=5,
    stopped=1,
    infeasible=3,
    epochs=7.5,
    front=({"trial": 4, "accuracy": 0.9712, "latency_ms": 0.123},),
    hypervolume=0.25,
    elapsed_s=75.0,
    left_s=30.0,
)


def test_progress_in_a_pipe_is_one_line_for_each_step() -> None:
    console = Console(file=StringIO(), width=60)
    watch = terminal.Watch(console)
    for snapshot in (SNAPSHOT, SNAPSHOT, replace(SNAPSHOT, complete=6)):
        watch.update(snapshot)
    watch.stop()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == (
        "searching · 6 of 20 trials (2 in progress, 5 complete, 1 stopped, 3 over budget) "
        "· front 1 · 1 min 15 s · about 30.0 s left · 7.5 epochs · hypervolume 0.25"
    )
    assert len(lines) == 2
    assert lines[1].startswith("searching · 7 of 20 trials")


def test_progress_in_a_terminal_shows_the_front() -> None:
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    watch = terminal.Watch(console)
    watch.update(SNAPSHOT)
    watch.stop()
    shown = console.file.getvalue()
    for part in ("searching", "6 of 20 trials", "predicted latency_ms", "97.12 %", "0.123 ms"):
        assert part in shown


@pytest.mark.parametrize(
    ("interrupt", "code"), [(KeyboardInterrupt(), 130), (Terminated(15), 143), (Terminated(1), 129)]
)
def test_an_interrupt_has_the_code_of_its_signal(interrupt: KeyboardInterrupt, code: int) -> None:
    assert terminal.code_of(interrupt) == code


def test_every_sign_of_the_tables_has_one_like_it_in_ascii() -> None:
    shown = "".join(terminal._ASCII)
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        terminal.prepare_streams()
    stream.write(shown + "ä")
    stream.flush()
    assert stream.buffer.getvalue() == b"---x+-<=->...*?sR>=o#.?"


def test_a_pipe_gets_long_lines_whole_and_tables_without_blanks_at_the_end(capsys) -> None:
    table = Table("a", "b")
    table.add_row("1", "")
    sentence = "word " * 60
    terminal.say(Group(Text(f"{sentence}end"), table))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{sentence}end"
    assert not any(line.endswith(" ") for line in lines)
    assert len(lines) > 3


def test_a_long_error_is_cut_and_has_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        terminal.fail("x" * 5000 + "\x1b[2J", 2)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {'x' * 4000}…\n"


def test_a_terminal_that_hung_up_does_not_stop_a_search() -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    watch = terminal.Watch(Console(file=Gone(), width=60))
    for done in (5, 6):
        watch.update(replace(SNAPSHOT, complete=done))
    watch.stop()


def test_notes_of_a_search_cannot_steer_the_terminal() -> None:
    console = Console(file=StringIO(), width=200)
    terminal.Watch(console).update(replace(SNAPSHOT, note="dense \x1b[2J model"))
    assert "dense [2J model" in console.file.getvalue()
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize("begun", [True, False])
def test_a_search_that_is_stopped_says_how_to_go_on(tmp_path: Path, capsys, begun: bool) -> None:
    if begun:
        (tmp_path / "config.yaml").write_text("")
    with pytest.raises(SystemExit) as end, terminal.watching(tmp_path, quiet=True):
        raise Terminated(15)
    assert end.value.code == 143
    assert capsys.readouterr().err == (
        f"error: stopped; finished trials are saved · resume with: autoprune resume {tmp_path}\n"
        if begun
        else "error: stopped before the run began; nothing was written\n"
    )


def test_a_quiet_search_is_not_watched(tmp_path: Path) -> None:
    with terminal.watching(tmp_path, quiet=True) as watch:
        assert watch is None
    with terminal.watching(tmp_path, quiet=False) as watch:
        assert isinstance(watch, terminal.Watch)


def test_inside_signals_interrupt_and_afterwards_they_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught, terminal.terminable():
        signal.raise_signal(signal.SIGTERM)
    assert terminal.code_of(caught.value) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_traceback_has_a_file_of_its_own(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = {terminal.traceback_file(ValueError(f"wröng {n}")) for n in range(2)}
    texts = sorted(file.read_text(encoding="utf-8") for file in files)
    assert texts == ["ValueError: wröng 0\n", "ValueError: wröng 1\n"]
