"""init, search, resume and verify."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import small_run

from autoprune import api, templates
from autoprune.config import RunConfig
from autoprune.result import Result
from autoprune.store import RunFolder, RunState


@pytest.mark.parametrize("name", ["budget.yaml", "mine.py"])
def test_init_overwrites_nothing(command_line, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    code, _, err = command_line(
        "init", tmp_path / "budget.yaml", "--task-file", tmp_path / "mine.py"
    )
    assert code == 2
    assert err == f"error: {tmp_path / name} exists and is not overwritten · choose another name\n"
    assert (tmp_path / name).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_of_somebody_else_needs_trust(command_line, tmp_path: Path) -> None:
    config = {"task": "theirs.py:Task", "budget": {"macs": "50%"}, "base": "."}
    sent = RunFolder.create(tmp_path / "sent", config, {}).path
    (sent / "theirs.py").write_text("raise SystemExit('it ran')")
    code, _, err = command_line("resume", sent)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{sent / 'theirs.py'}, which was not named on this machine before" in err
    assert "add --trust" in err


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
    "evaluate fails": ("Breaks", "macs: 50%", "Breaks.evaluate failed on val: ZeroDivision"),
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
    command_line, tmp_path: Path, monkeypatch, case: str
) -> None:
    import torch
    from safetensors.torch import save_file

    name, budget, message = UNFIT[case]
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASK)
    save_file({"0.weight": torch.zeros(3, 3)}, "other.safetensors")
    Path("b.yaml").write_text(f"task: mine.py:{name}\nbudget: {{{budget}}}\noutput: run")
    code, _, err = command_line("search", "b.yaml", "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not Path("run").exists()


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_says_how_to_go_on(command_line, tmp_path: Path, monkeypatch, begun: bool) -> None:

    def stopped(config: RunConfig, **_: object) -> None:
        if begun:
            Path(config.output).mkdir()
            (Path(config.output) / "config.yaml").write_text(config.to_yaml())
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run_config", stopped)
    (tmp_path / "b.yaml").write_text("task: digits\nbudget: {macs: 50%}\noutput: run")
    code, _, err = command_line("search", tmp_path / "b.yaml")
    assert code == 130
    assert (f"resume with: autoprune resume {tmp_path / 'run'}" in err) is begun
    assert err.count("\n") == 1


def test_init_writes_a_configuration_and_says_how_to_go_on(command_line, tmp_path: Path) -> None:
    file = tmp_path / "new" / "budget.yaml"
    code, out, _ = command_line("init", file, "--task", "mine.py:Mine")
    assert code == 0
    missing = f"write {file.parent}/mine.py (--task-file makes one to fill in), then "
    assert out.replace("\n", "|") == f"wrote {file}|next: {missing}autoprune search {file}|"
    assert RunConfig.load(file).task == f"{file.parent}/mine.py:Mine"


def test_init_writes_a_task_that_the_configuration_names(command_line, tmp_path: Path) -> None:
    file = tmp_path / "job" / "b.yaml"
    code, out, _ = command_line("init", file, "--task-file", tmp_path / "tasks" / "mine.py")
    assert code == 0
    assert out.splitlines()[-1] == f"next: autoprune search {file}"
    assert "\ntask: ../tasks/mine.py:MyTask\n" in file.read_text()
    config = RunConfig.load(file)
    assert config.task == f"{tmp_path}/job/../tasks/mine.py:MyTask"
    assert (tmp_path / "tasks" / "mine.py").read_text() == templates.TASK


def test_a_task_file_is_python(command_line, tmp_path: Path) -> None:
    code, _, err = command_line("init", tmp_path / "b.yaml", "--task-file", tmp_path / "mine.txt")
    says = f"error: --task-file must end in .py, got {tmp_path / 'mine.txt'}\n"
    assert (code, err) == (2, says)
    assert list(tmp_path.iterdir()) == []


def searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, list[RunConfig]]:
    """A finished run that every search gives, and the configurations of the searches."""
    done = small_run.make(folder)
    asked: list[RunConfig] = []

    def run_config(config: RunConfig, **_: object) -> Result:
        asked.append(config)
        return Result.read(done.path)

    monkeypatch.setattr(api, "run_config", run_config)
    return done, asked


def test_search_goes_where_the_configuration_says_and_shows_the_result(
    command_line, tmp_path: Path, monkeypatch
) -> None:
    done, asked = searched(tmp_path, monkeypatch)
    (tmp_path / "b.yaml").write_text("task: digits\nbudget: {macs: 50%}\noutput: there")
    code, out, _ = command_line(
        *("search", tmp_path / "b.yaml", "--quiet", "--set", "search.trials=5"),
        *("--set", "budget.params=9", "--from-run", done.path),
    )
    assert code == 0
    (config,) = asked
    assert (config.output, config.from_run) == (f"{tmp_path}/there", str(done.path))
    assert (config.search.trials, config.budget.fields) == (5, ("macs", "params"))
    said = out.splitlines()
    assert said[-3:] == [
        f"run     {done.path}",
        f"next    autoprune report {done.path}",
        f"        autoprune retrain {done.path} --epochs 20",
    ]


def test_without_an_output_a_search_has_a_folder_of_its_own(
    command_line, tmp_path: Path, monkeypatch
) -> None:
    _, asked = searched(tmp_path, monkeypatch)
    (tmp_path / "b.yaml").write_text("task: digits\nbudget: {macs: 50%}")
    command_line("search", tmp_path / "b.yaml", "--quiet")
    assert re.fullmatch(r"results/digits-\d{8}-\d{6}", asked[0].output or "")


@pytest.mark.parametrize("verb", ["resume", "verify"])
def test_resume_and_verify_pass_on_what_was_said(
    command_line, tmp_path: Path, monkeypatch, verb: str
) -> None:
    done = small_run.make(tmp_path).path
    asked: dict[str, object] = {}

    def call(path: Path, **options: object) -> Result:
        asked.update(options, path=path)
        return Result.read(done)

    monkeypatch.setattr(api, verb, call)
    more = ("--trials", "+20", "--minutes", "3") if verb == "resume" else ()
    code, out, _ = command_line(verb, done, *more, "--trust", "--quiet")
    assert code == 0
    assert f"next    autoprune report {done}" in out.splitlines()
    limits = {"trials": "+20", "minutes": "3"} if verb == "resume" else {}
    assert asked == {"path": done, "progress": None, "trust": True, **limits}


def test_several_starting_models_are_searched_and_resumed(
    command_line, tmp_path: Path, monkeypatch
) -> None:
    seen = []

    def searched(folder: Path, config: RunConfig, *_: object, resumed: bool) -> None:
        seen.append((folder.name, config.search.trials, resumed))
        if not resumed:
            small_run.make(tmp_path, folder).save_config(config)
        RunFolder.open(folder).save_state(RunState("done", 60.0))

    monkeypatch.setattr(api, "search_into", searched)
    monkeypatch.syspath_prepend(Path(small_run.__file__).parent)
    starts = "starting_models: {large: {}, small: {sizes: 4}}"
    (tmp_path / "b.yaml").write_text(
        f"task: wide_stripes:WideStripes\nbudget: {{macs: 80%}}\noutput: run\nsearch: "
        f"{{trials: 8}}\n{starts.replace('sizes', 'width')}"
    )
    code, out, err = command_line("search", tmp_path / "b.yaml", "--quiet")
    assert (code, err) == (0, "")
    assert "2 models from 2 starting models" in out
    assert f"autoprune retrain {tmp_path / 'run'} --epochs 20" in out.replace("\n", "")
    assert seen[:2] == [("large", 2, False), ("small", 2, False)]
    code, out, err = command_line("resume", tmp_path / "run", "--trials", "+2", "--quiet")
    assert (code, err) == (0, "")
    assert seen[-2:] == [("large", 3, True), ("small", 3, True)]  # of 2 each
    code, _, err = command_line("resume", tmp_path / "run", "--minutes", 3)
    assert (code, "--minutes is for one run" in err) == (2, True)
