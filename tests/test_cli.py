"""The commands: what they say, what they write, how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import autoprune
from autoprune import api, cli
from autoprune._export import Exported
from autoprune._search.progress import Snapshot
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.cli import commands, terminal
from autoprune.config import RunConfig
from autoprune.device.profile import DeviceProfile
from autoprune.errors import ExportError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.store import FrontReport, RunFolder

COMMANDS = (  # in the order of the help
    *("init", "doctor", "search", "resume", "verify", "show", "report", "compare", "retrain"),
    *("export", "quantize", "profile", "schema"),
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture
def shown_run(tmp_path: Path) -> Path:
    """A finished run that can be shown."""
    config = {"task": "digits", "budget": {"macs": "50%"}}
    folder = RunFolder.create(tmp_path / "run", config, {})
    known = {"metrics": {"accuracy": 0.9}, "predicted": Cost(macs=10)}
    record = TrialRecord(0, Candidate(Architecture()), "complete", seed=0, **known)
    folder.append(record)
    objectives = (Objective("accuracy", "maximize"), Objective("macs"))
    folder.save_front(FrontReport(ParetoFront(objectives, (record,))))
    return folder.path


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from autoprune.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print('HEAVY', sorted({'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    places = [done.stdout.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)


def test_init_writes_a_configuration_that_loads(run, tmp_path: Path) -> None:
    code, out, _ = run("init", tmp_path / "budget.yaml")
    assert code == 0
    assert f"next: autoprune search {tmp_path}/budget.yaml" in out
    config = RunConfig.load(tmp_path / "budget.yaml")
    plain = {"task": "digits", "budget": {"latency_ms": "50%"}}
    assert config == RunConfig.from_dict(plain, base=tmp_path)


def test_init_shows_every_key(run, tmp_path: Path) -> None:
    run("init", tmp_path / "budget.yaml")
    text = (tmp_path / "budget.yaml").read_text()
    for section in (
        RunConfig,
        *(RunConfig.model_fields[k].annotation for k in ("device", "search")),
    ):
        for key in section.model_fields:
            assert f"{key}:" in text


def test_init_writes_a_task_that_works(run, tmp_path: Path) -> None:
    from autoprune.tasks.load import load_task

    code, _, _ = run("init", tmp_path / "job" / "b.yaml", "--task-file", tmp_path / "mine.py")
    assert code == 0
    config = RunConfig.load(tmp_path / "job" / "b.yaml")
    task = load_task(config.task)
    model = task.build_model()
    assert model(task.example_input()).shape == (1, 4)
    assert 0.0 <= task.evaluate(model, "val")["accuracy"] <= 1.0
    assert task.loss(model, next(iter(task.train_loader(0)))).item() > 0.0


@pytest.mark.parametrize("name", ["budget.yaml", "mine.py"])
def test_init_overwrites_nothing(run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    code, _, err = run("init", tmp_path / "budget.yaml", "--task-file", tmp_path / "mine.py")
    assert code == 2
    assert err == f"error: {tmp_path / name} exists and is not overwritten · choose another name\n"
    assert (tmp_path / name).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


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
        "method must be one of minmax, entropy, percentile, got 'mean'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path: Path, monkeypatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, config, message = BAD[case]
    if config is not None:
        Path("b.yaml").write_text(config)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments.split())
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_work_is_one_line_and_exit_code_1(run, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ExportError("outputs differ by 0.5")

    monkeypatch.setattr(commands, "app", fail)
    assert run() == (1, "", "error: outputs differ by 0.5\n")


def test_unexpected_error_says_where_its_traceback_is(run, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(commands, "app", fail)
    code, _, err = run()
    assert code == 1
    line, _, file = err.strip().partition(" · traceback in ")
    assert line == "error: ZeroDivisionError: a b"
    assert "ZeroDivisionError" in Path(file).read_text()
    Path(file).unlink()


def test_version_is_printed(run) -> None:
    assert run("--version") == (0, f"autoprune {autoprune.__version__}\n", "")


def test_verbose_shows_the_traceback_of_a_mistake() -> None:
    command = [sys.executable, "-m", "autoprune"]
    quiet = subprocess.run([*command, "show", "none"], capture_output=True, text=True, check=False)
    loud = subprocess.run(
        [*command, "-v", "show", "none"], capture_output=True, text=True, check=False
    )
    assert (quiet.returncode, quiet.stderr.count("\n")) == (2, 1)
    assert "Traceback" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


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


def test_a_report_can_be_written_elsewhere_and_where_it_cannot_is_one_line(
    run, shown_run: Path, tmp_path: Path
) -> None:
    code, out, _ = run("report", shown_run, "-o", tmp_path / "page.html")
    assert (code, out) == (0, f"wrote {tmp_path / 'page.html'}\n")
    assert not (shown_run / "report.html").exists()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    code, _, err = run("report", shown_run, "-o", tmp_path / "folder")
    assert (code, err) == (2, f"error: {tmp_path / 'folder'} cannot be written: Is a directory\n")


def test_a_folder_of_somebody_else_needs_trust(run, tmp_path: Path) -> None:
    config = {"task": "theirs.py:Task", "budget": {"macs": "50%"}, "base": "."}
    sent = RunFolder.create(tmp_path / "sent", config, {}).path
    (sent / "theirs.py").write_text("raise SystemExit('it ran')")
    code, _, err = run("resume", sent)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{sent / 'theirs.py'}, which was not named on this machine before" in err
    assert "add --trust" in err


def test_a_closed_pipe_ends_the_command_quietly(shown_run: Path) -> None:
    command = [sys.executable, "-m", "autoprune", "show", shown_run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as show:
        assert show.stdout is not None
        assert show.stderr is not None
        show.stdout.close()  # before anything was written
        assert show.stderr.read() == b""
        assert show.wait() == 0


def test_control_characters_do_not_reach_the_terminal(run, tmp_path: Path) -> None:
    code, _, err = run("show", tmp_path / "a\x1b[2Jb")
    assert (code, "\x1b" in err) == (2, False)


def test_unknown_option_is_refused(run) -> None:
    code, _, err = run("show", "--pick", "knee", "run")
    assert code == 2
    assert "No such option: --pick" in err


TASK = """
import torch
from torch import nn

import autoprune


class Good(autoprune.Task):
    dense_epochs = 0

    def build_model(self):
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

    def example_input(self):
        return torch.zeros(1, 4)

    def train_loader(self, seed):
        return [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]

    def val_loader(self):
        return self.train_loader(0)

    test_loader = val_loader


class NaN(Good):
    def evaluate(self, model, split):
        return {"accuracy": float("nan")}


class Refuses(Good):
    def build_model(self):
        return nn.Sequential(nn.Linear(5, 16), nn.Linear(16, 2))


class Breaks(Good):
    def evaluate(self, model, split):
        return 1 / 0


class Lost(Good):
    checkpoint = "lost.safetensors"


class Misfit(Good):
    checkpoint = "other.safetensors"
"""

UNFIT = {
    "budget below the smallest model": ("Good", "macs: 3", "budget.macs must be at least"),
    "metric is NaN": ("NaN", "macs: 50%", "must give a finite 'accuracy' for the dense model"),
    "evaluate fails": ("Breaks", "macs: 50%", "evaluate failed for the dense model on val: Zero"),
    "model cannot run": ("Refuses", "macs: 50%", "mat1 and mat2 shapes"),
    "checkpoint is missing": ("Lost", "macs: 50%", "lost.safetensors does not exist"),
    "checkpoint does not fit": ("Misfit", "macs: 50%", "other.safetensors"),
    "no such class": ("Goood", "macs: 50%", "holds no class 'Goood'"),
    "no such runtime": ("Good", "macs: 50%}\ndevice: {runtime: tensort", "runtime must be one of"),
    "no such runtime on one of several": (
        "Good",
        "macs: 50%}\ndevices: {a: {runtime: torch}, b: {runtime: tensort}",
        "runtime must be one of",
    ),
    "no such objective": (
        "Good",
        "macs: 50%}\nsearch: {objectives: [acuracy, macs]",
        "search.objectives",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_said_before_anything_is_written(
    run, tmp_path: Path, monkeypatch, case: str
) -> None:
    import torch
    from safetensors.torch import save_file

    name, budget, message = UNFIT[case]
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASK)
    save_file({"0.weight": torch.zeros(3, 3)}, "other.safetensors")
    Path("b.yaml").write_text(f"task: mine.py:{name}\nbudget: {{{budget}}}\noutput: run")
    code, _, err = run("search", "b.yaml", "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not Path("run").exists()


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_says_how_to_go_on(run, tmp_path: Path, monkeypatch, begun: bool) -> None:
    from autoprune import api

    def stopped(config: RunConfig, **_: object) -> None:
        if begun:
            Path(config.output).mkdir()
            (Path(config.output) / "config.yaml").write_text(config.to_yaml())
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run_config", stopped)
    (tmp_path / "b.yaml").write_text("task: digits\nbudget: {macs: 50%}\noutput: run")
    code, _, err = run("search", tmp_path / "b.yaml")
    assert code == 130
    assert (f"resume with: autoprune resume {tmp_path / 'run'}" in err) is begun
    assert err.count("\n") == 1


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


def test_profile_writes_a_device_profile_once(run, tmp_path: Path) -> None:
    file = tmp_path / "made" / "device.json"
    asked = ("profile", "digits", "--target", "torch", "--samples", "10", "-o", file)
    code, out, _ = run(*asked)
    assert code == 0
    assert f"wrote {file}" in out
    assert "measured 10 prunings of digits" in out
    made = DeviceProfile.load(file)
    assert (made.device.runtime, len(made.predictor.samples)) == ("torch", 10)
    before = file.read_bytes()
    code, _, err = run(*asked)
    assert code == 2
    assert f"{file} exists and is not overwritten" in err
    assert file.read_bytes() == before


def test_a_device_profile_moves_to_another_runtime(run, tmp_path: Path) -> None:
    file, other = tmp_path / "torch.json", tmp_path / "onnx.json"
    code, _, err = run("profile", "digits", "--runtime", "onnxruntime", "--from", file)
    assert code == 2
    assert "--from makes a device profile · name its file with -o" in err
    asked = ("profile", "digits", "--runtime", "onnxruntime", "--from", file, "-o", other)
    code, _, err = run(*asked)
    assert code == 2
    assert f"{file} is not a file" in err
    run("profile", "digits", "--runtime", "torch", "--samples", "10", "-o", file)
    code, out, _ = run(*asked)
    assert code == 0
    assert "measured 10 prunings of digits" in out
    source, made = DeviceProfile.load(file), DeviceProfile.load(other)
    assert made.device.runtime == "onnxruntime"
    assert made.versions["onnxruntime"]
    assert made.predictor.features.names == source.predictor.features.names
    assert not np.array_equal(made.predictor.coefficients, source.predictor.coefficients)
    assert made.predictor.samples != source.predictor.samples


def test_export_names_both_files(run, monkeypatch, tmp_path: Path) -> None:
    asked = {}

    def export(path, **options):
        asked.update(options)
        return Exported(Path("m.xml"), "openvino", "by us", 1e-7, 1_500_000, None, Path("m.bin"))

    monkeypatch.setattr(api, "export", export)
    code, out, _ = run("export", tmp_path, "--format", "openvino", "--dynamic-batch")
    assert code == 0
    assert "wrote m.xml and m.bin (1.50 MB, by us)" in out
    assert (asked["format"], asked["dynamic_batch"]) == ("openvino", True)


def test_a_device_profile_is_of_one_runtime(run, tmp_path: Path) -> None:
    code, _, err = run("profile", "digits", "-o", tmp_path / "device.json")
    assert code == 2
    assert "a device profile is of one runtime · add e.g. --runtime onnxruntime" in err
    assert not list(tmp_path.iterdir())


def test_profile_asks_what_the_configuration_says(run, tmp_path: Path) -> None:
    device = "device: {runtime: torch, threads: 1, batch: 3}"
    (tmp_path / "b.yaml").write_text(f"task: digits\nbudget: {{macs: 50%}}\n{device}\n")
    code, out, _ = run("profile", tmp_path / "b.yaml")
    assert code == 0
    assert "batch 3" in out
    assert "onnxruntime" not in out
    code, out, _ = run("profile", tmp_path / "b.yaml", "--batch", "2")
    assert "batch 2" in out
    devices = "devices: {a: {runtime: torch}, b: {runtime: torch, batch: 2}}"
    (tmp_path / "c.yaml").write_text(f"task: digits\nbudget: {{macs: 50%}}\n{devices}\n")
    code, _, err = run("profile", tmp_path / "c.yaml")
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
    assert done.stderr == ""
