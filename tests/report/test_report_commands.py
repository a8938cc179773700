"""The commands to copy: for the runtimes of a run, with paths as words of a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from views import config

from autoprune._export import FORMATS
from autoprune.cost.targets import RUNTIMES
from autoprune.report import commands

DEVICES = Path(__file__).parents[2] / "docs" / "devices.md"


def formats(**device: object) -> list[str]:
    return list(commands.exports("run", config({"macs": 1}, **device), "float32"))


def documented() -> dict[str, str]:
    """The format of each runtime, as the table of docs/devices.md has it."""
    found: dict[str, str] = {}
    table = DEVICES.read_text().partition("| `runtime` |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        cells = line.split("|")
        name = re.findall(r"`([a-z0-9]+)`", cells[4])[0]
        found |= dict.fromkeys(re.findall(r"`([a-z0-9-]+)`", cells[1]), name)
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_is_written_for_the_runtime_in_which_it_is_measured(runtime: str) -> None:
    name = documented()[runtime]
    assert name in FORMATS
    assert formats(device={"runtime": runtime}) == [f"autoprune export run --format {name}"]


def test_behind_an_address_is_onnx_runtime() -> None:
    assert formats(device="ssh://pi@cam") == ["autoprune export run --format onnx"]


def test_each_runtime_has_a_file_once() -> None:
    devices = {
        name: {"runtime": runtime}
        for name, runtime in (("a", "ncnn"), ("b", "onnxruntime"), ("c", "ncnn"))
    }
    assert formats(devices=devices) == [
        "autoprune export run --format ncnn",
        "autoprune export run --format onnx",
    ]


def test_an_int8_model_is_written_once_as_onnx() -> None:
    found = config({"macs": 1}, device={"runtime": "onnxruntime"})
    assert list(commands.exports("a run", found, "int8")) == [
        "autoprune export 'a run' --precision int8"
    ]


@pytest.mark.parametrize("path", ["results/my run", "it's", "a;b", "$HOME/$(x)", "plain/run-1"])
def test_a_shell_reads_the_path_as_one_word(path: str) -> None:
    (line,) = commands.exports(path, config({"macs": 1}), "float32")
    assert shlex.split(line) == ["autoprune", "export", path, "--format", "onnx"]
    assert shlex.split(commands.retrain(path))[:3] == ["autoprune", "retrain", path]
