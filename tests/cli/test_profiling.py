"""profile, doctor and schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoprune import doctor
from autoprune.device.profile import DeviceProfile
from autoprune.schema import config_schema


def test_profile_writes_a_device_profile_once(command_line, tmp_path: Path) -> None:
    file = tmp_path / "made" / "device.json"
    asked = ("profile", "digits", "--target", "torch", "--samples", "10", "-o", file)
    code, out, _ = command_line(*asked)
    assert code == 0
    assert f"wrote {file}" in out
    assert "measured 10 prunings of digits" in out
    made = DeviceProfile.load(file)
    assert (made.device.runtime, len(made.predictor.samples)) == ("torch", 10)
    before = file.read_bytes()
    code, _, err = command_line(*asked)
    assert code == 2
    assert f"{file} exists and is not overwritten" in err
    assert file.read_bytes() == before


def test_a_device_profile_moves_to_another_runtime(command_line, tmp_path: Path) -> None:
    file, other = tmp_path / "torch.json", tmp_path / "onnx.json"
    code, _, err = command_line("profile", "digits", "--runtime", "onnxruntime", "--from", file)
    assert code == 2
    assert "--from makes a device profile · name its file with -o" in err
    asked = ("profile", "digits", "--runtime", "onnxruntime", "--from", file, "-o", other)
    code, _, err = command_line(*asked)
    assert code == 2
    assert f"{file} is not a file" in err
    command_line("profile", "digits", "--runtime", "torch", "--samples", "10", "-o", file)
    code, out, _ = command_line(*asked)
    assert code == 0
    assert "measured 10 prunings of digits" in out
    source, made = DeviceProfile.load(file), DeviceProfile.load(other)
    assert made.device.runtime == "onnxruntime"
    assert made.versions["onnxruntime"]
    assert made.predictor.features.names == source.predictor.features.names
    assert not np.array_equal(made.predictor.coefficients, source.predictor.coefficients)
    assert made.predictor.samples != source.predictor.samples


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples", "20"], "--samples makes a device profile · name its file with -o"),
        (
            ["--from", "a.json", "--batch", "8", "-o", "b.json"],
            "--from keeps the batch of the profile · leave out --batch",
        ),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    command_line, options: list[str], said: str
) -> None:
    code, _, err = command_line("profile", "digits", *options)
    assert code
    assert said in err


def test_a_device_profile_is_of_one_runtime(command_line, tmp_path: Path) -> None:
    code, _, err = command_line("profile", "digits", "-o", tmp_path / "device.json")
    assert code == 2
    assert "a device profile is of one runtime · add e.g. --runtime onnxruntime" in err
    assert not list(tmp_path.iterdir())


def test_profile_asks_what_the_configuration_says(command_line, tmp_path: Path) -> None:
    device = "device: {runtime: torch, threads: 1, batch: 3}"
    (tmp_path / "b.yaml").write_text(f"task: digits\nbudget: {{macs: 50%}}\n{device}\n")
    code, out, _ = command_line("profile", tmp_path / "b.yaml")
    assert code == 0
    assert "batch 3" in out
    assert "onnxruntime" not in out
    code, out, _ = command_line("profile", tmp_path / "b.yaml", "--batch", "2")
    assert "batch 2" in out
    devices = "devices: {a: {runtime: torch}, b: {runtime: torch, batch: 2}}"
    (tmp_path / "c.yaml").write_text(f"task: digits\nbudget: {{macs: 50%}}\n{devices}\n")
    code, _, err = command_line("profile", tmp_path / "c.yaml")
    assert code == 2
    assert "the devices differ in batch · choose one: --batch 1" in err


def test_profiler_of_torch_does_not_log_beside_the_commands(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(
        "import torch\nfrom torch import nn\nimport autoprune\n"
        "class Tiny(autoprune.Task):\n"
        "    dense_epochs = 0\n"
        "    def build_model(self): return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\n"
        "    def train_loader(self, seed): return [(torch.zeros(2, 4), torch.zeros(2).long())]\n"
        "    def val_loader(self): return self.train_loader(0)\n"
        "    def test_loader(self): return self.train_loader(0)\n"
    )
    command = [sys.executable, "-m", "autoprune", "profile", "my_task.py:Tiny"]
    done = subprocess.run(
        [*command, "--runtime", "torch"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "peak memory" in done.stdout
    busy = "the measurement is refused"  # what a busy machine adds, for a reason
    assert [line for line in done.stderr.splitlines() if not line.startswith(busy)] == []


def test_the_doctors_exit_code_says_whether_something_is_bad(command_line, monkeypatch) -> None:
    fine = [doctor.Check("torch", "good", "2"), doctor.Check("load", "warn", "busy", "wait")]
    bad = doctor.Check("task", "bad", "none.py does not exist")
    for checks, code, last in (
        (fine, 0, "0 bad, 1 to look at"),
        ([*fine, bad], 1, "1 bad, 1 to look at"),
    ):
        monkeypatch.setattr(doctor, "examine", lambda config, found=checks: found)
        ended, out, err = command_line("doctor")
        assert (ended, out.splitlines()[-1], err) == (code, last, "")


def test_the_schema_is_printed_or_written(command_line, tmp_path: Path) -> None:
    code, out, _ = command_line("schema")
    assert code == 0
    file = tmp_path / "schema.json"
    code, said, _ = command_line("schema", "-o", file)
    assert code == 0
    assert json.loads(out) == json.loads(file.read_text()) == config_schema()
    first = f"next  first line of the YAML: # yaml-language-server: $schema={file}"
    assert said.splitlines() == [f"wrote {file}", first]
