"""How a command ends: its exit code, and one line for what went wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune._search.trials.interrupts import Terminated
from autoprune.cli import commands
from autoprune.errors import BudgetError, ExportError, TrainingError

BAD = {
    "no such file": ("search none.yaml", None, "none.yaml is not a file · write one with"),
    "unknown key": (
        "search b.yaml",
        "task: digits\nbudget: {macs: 50%}\nsearch: {trails: 3}",
        "b.yaml: search.trails is not a key · nearest: trials",
    ),
    "wrong unit": (
        "search b.yaml",
        "task: digits\nbudget: {macs: 5 ms}",
        "b.yaml: budget.macs: unit 'ms' does not fit",
    ),
    "wrong override": (
        "search b.yaml --set search.trials",
        "task: digits\nbudget: {macs: 50%}",
        "--set search.trials must have the form key=value",
    ),
    "latency without a device": (
        "search b.yaml",
        "task: digits\nbudget: {latency_ms: 8}\ndevices: {phone: {}, server: {}}",
        "b.yaml: budget: latency_ms must say on which device, one of phone, server",
    ),
    "unknown device": (
        "search b.yaml",
        "task: digits\nbudget: {latency_ms: {fone: 8}}\ndevices: {phone: {}, server: {}}",
        "latency_ms@fone: no device is called 'fone' · nearest: phone",
    ),
    "device and devices": (
        "search b.yaml --set device.threads=2",
        "task: digits\nbudget: {macs: 50%}\ndevices: {phone: {}}",
        "b.yaml: device and devices exclude each other",
    ),
    "missing task file": (
        "search b.yaml",
        "task: none.py:Mine\nbudget: {macs: 50%}",
        "none.py does not exist",
    ),
    "no run to resume": ("resume none", None, "none does not exist"),
    "no run to verify": ("verify none", None, "none does not exist"),
    "no run to compare": ("compare none none", None, "none does not exist"),
    "no earlier run": (
        "search b.yaml --from-run none",
        "task: digits\nbudget: {macs: 50%}",
        "none does not exist",
    ),
    "pattern without a match": (
        "profile b.yaml",
        "task: digits\nbudget: {macs: 50%}\nkeep: [stagee1]\ndevice: {runtime: torch}",
        "keep: 'stagee1' matches no group, block or layer · near: stage1",
    ),
    "unreadable quality": (
        "search b.yaml",
        "task: digits\nbudget: {macs: 50%}\nquality: {accuracy: 90}",
        "b.yaml: quality.accuracy",
    ),
    "unknown format": ("report none --format pdf", None, "none does not exist"),
    "no run to show": ("show none", None, "none does not exist"),
    "no run to report": ("report none", None, "none does not exist"),
    "no run to export": ("export none", None, "none does not exist"),
    "no run to quantize": ("quantize none", None, "none does not exist"),
    "unknown precision": ("export none --precision int4", None, "float32, int8, got 'int4'"),
    "int8 as pt2": ("export none --precision int8 --format pt2", None, "written as onnx"),
    "int8's option for float32": ("export none --weight-bits 8", None, "need --precision int8"),
    "unknown split": ("export none --precision int8 --split train", None, "must be val or test"),
    "unknown range": (
        "export none --precision int8 --calibration mean",
        None,
        "calibration method must be one of minmax, percentile, got 'mean'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    command_line, tmp_path: Path, monkeypatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, config, message = BAD[case]
    if config is not None:
        Path("b.yaml").write_text(config)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command_line(*arguments.split())
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_work_is_one_line_and_exit_code_1(command_line, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ExportError("outputs differ by 0.5")

    monkeypatch.setattr(commands, "app", fail)
    assert command_line() == (1, "", "error: outputs differ by 0.5\n")


def test_unexpected_error_says_where_its_traceback_is(command_line, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(commands, "app", fail)
    code, _, err = command_line()
    assert code == 1
    line, _, file = err.strip().partition(" · traceback in ")
    assert line == "error: ZeroDivisionError: a b"
    assert "ZeroDivisionError" in Path(file).read_text()
    Path(file).unlink()


def test_a_closed_pipe_ends_the_command_quietly(shown_run: Path) -> None:
    command = [sys.executable, "-m", "autoprune", "show", shown_run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as show:
        assert show.stdout is not None
        assert show.stderr is not None
        show.stdout.close()  # before anything was written
        assert show.stderr.read() == b""
        assert show.wait() == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BudgetError("budget.macs must be above 0"), 2, "budget.macs must be above 0"),
        (TrainingError("loss became nan"), 1, "loss became nan"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "/x/y: permission denied"),
        (FileNotFoundError(2, "No such file or directory", "a"), 2, "a: no such file or directory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Terminated(15), 143, "stopped"),
        (Terminated(1), 129, "stopped"),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code_and_one_line(
    command_line, monkeypatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "app", fail)
    assert command_line() == (code, "", f"error: {line}\n")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device", "/x"), OSError(5, "Input/output error")]
)
def test_a_file_that_nobody_could_have_named_otherwise_is_failed_work(
    command_line, monkeypatch, tmp_path: Path, error: OSError
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "app", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = command_line()
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {error} · traceback in {tmp_path}/autoprune-")


def test_signals_are_handled_as_before_when_a_command_has_ended(command_line) -> None:
    before = signal.getsignal(signal.SIGTERM)
    command_line("--version")
    assert signal.getsignal(signal.SIGTERM) is before
