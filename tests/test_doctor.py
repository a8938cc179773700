"""What the doctor looks at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import small_run

from autoprune import doctor


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))


def by_name(
    config: Path | None = None, flags: frozenset[str] | None = None
) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(config, look_s=0.0, flags=flags)}


def test_this_machine_can_be_used() -> None:
    found = by_name()
    assert found["torch"].state == "good"
    assert found["runtime onnxruntime"].state == "good"
    assert found["cache folder"].state == "good"
    assert not [check for check in found.values() if check.state == "bad"]


def test_a_folder_that_cannot_be_written_says_which_variable(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "ray"))
    check = by_name()["Ray's folder"]
    assert (check.state, check.remedy) == ("bad", "set RAY_TMPDIR to a folder that is")


@pytest.mark.parametrize(
    ("flags", "state"), [({"avx2", "avx512_vnni"}, "good"), ({"avx2"}, "info")]
)
def test_int8_instructions_are_told(flags: set[str], state: str) -> None:
    found = by_name(flags=frozenset(flags))
    assert found["int8"].state == state
    assert "avx2" in found["instructions"].text


def test_a_configuration_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text("task: none.py:Mine\nbudget: {macs: 50%}\ndevice: {runtime: torch}")
    found = by_name(file)
    assert found["configuration"].state == "good"
    assert "none.py does not exist" in found["task"].text
    assert (found["device"].state, found["device"].text) == ("good", "torch, 1 thread")


TASK = """
from small_run import Pair

class Weighted(Pair):
    dense_epochs = None
    def __init__(self, checkpoint=None):
        self.checkpoint = checkpoint
"""

BROKEN = """
from pathlib import Path
from small_run import Pair

class Broken(Pair):
    def build_model(self):
        return Path("lost.pt").read_bytes()
"""


BATCHES = """
from small_run import Pair

class First(Pair):
    def __init__(self, is_enough=True):
        self.is_enough = is_enough

    def val_loader(self):
        yield from self.train_loader(1)
        raise AssertionError("the second batch was read")

    def evaluate(self, model, split):
        if not self.is_enough:
            raise ValueError("two batches are needed")
        return {**super().evaluate(model, split), "first": 1.0}
"""


def examined(folder: Path, **keys: object) -> dict[str, doctor.Check]:
    return {check.name: check for check in all_examined(folder, **keys)}


def all_examined(folder: Path, **keys: object) -> list[doctor.Check]:
    (folder / "mine.py").write_text(TASK)
    config = {"task": "mine.py:Weighted", "budget": {"macs": "50%"}, **keys}
    (folder / "b.yaml").write_text(json.dumps(config))
    return doctor.examine(folder / "b.yaml", look_s=0.0)


def test_weights_that_are_not_there_are_bad(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").touch()
    good = examined(tmp_path, task_args={"checkpoint": "there.safetensors"})["weights"]
    assert (good.state, good.text.endswith("there.safetensors")) == ("good", True)
    lost = examined(tmp_path, task_args={"checkpoint": "lost.safetensors"})["weights"]
    assert (lost.state, "lost.safetensors does not exist" in lost.text) == ("bad", True)
    none = examined(tmp_path)["weights"]
    assert (none.state, "must name its trained weights" in none.text) == ("bad", True)


def test_every_starting_model_is_tried(tmp_path: Path) -> None:
    starts = {"large": {"checkpoint": "lost.pt"}, "small": {"depth": 20}, "other": "none.py:Mine"}
    found = examined(tmp_path, starting_models=starts)
    assert [found[f"task {name}"].state for name in starts] == ["good", "bad", "bad"]
    assert found["weights large"].state == "bad"
    assert "depth" in found["task small"].text
    assert "task" not in found


def test_data_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    assert "data" not in examined(tmp_path)
    (tmp_path / "images").mkdir()
    assert examined(tmp_path, data="images")["data"].state == "good"
    found = examined(tmp_path, data="picture")["data"]
    assert (found.state, found.remedy) == ("warn", "correct data, or put data there")
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path / "lost"))
    assert examined(tmp_path)["data"].remedy == "correct AUTOPRUNE_DATA, or put data there"


def test_a_missing_tracker_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    found = examined(tmp_path, track=["mlflow"])["track mlflow"]
    assert (found.state, "pip install 'autoprune[mlflow]'" in found.text) == ("bad", True)


def test_the_earlier_run_must_be_there_and_of_this_task(tmp_path: Path) -> None:
    found = examined(tmp_path, from_run="lost")["from_run"]
    assert (found.state, "lost" in found.text) == ("bad", True)
    run = small_run.make(tmp_path).path
    other = examined(tmp_path, from_run=str(run))["from_run"]
    assert (other.state, "has task 'small_run:Pair'" in other.text) == ("bad", True)


def test_int8_models_need_a_runtime_that_runs_them(tmp_path: Path) -> None:
    space = {"ratios": {"max": 0.5}, "precision": ["float32", "int8"]}
    bad = examined(tmp_path, space=space, device={"runtime": "torch"})["int8 models"]
    assert (bad.state, "int8 models run in onnxruntime" in bad.text) == ("bad", True)
    assert examined(tmp_path, space=space)["int8 models"].state == "good"
    assert "int8 models" not in examined(tmp_path)


def test_every_smaller_dense_model_is_tried(tmp_path: Path) -> None:
    smaller = {"lost": {"checkpoint": "lost.pt"}, "odd": {"depth": 20}}
    found = examined(tmp_path, search={"baselines": {"smaller": smaller}})
    assert [found[f"task {name}"].state for name in smaller] == ["good", "bad"]
    assert (found["weights lost"].state, found["task"].state) == ("bad", "good")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"keep": ["absent.*"]}, "keep: 'absent.*' matches no group, block or layer"),
        ({"bounds": {"absent": {"max_ratio": 0.3}}}, "bounds: 'absent' matches no group"),
    ],
)
def test_patterns_that_match_nothing_are_bad(tmp_path: Path, keys: dict, said: str) -> None:
    found = examined(tmp_path, **keys)["keep and bounds"]
    assert (found.state, found.text.startswith(said)) == ("bad", True)
    assert examined(tmp_path, keep=["0"])["keep and bounds"].state == "good"
    assert "keep and bounds" not in examined(tmp_path)


def test_every_pattern_and_metric_that_is_wrong_is_said(tmp_path: Path) -> None:
    keys = {
        "keep": ["absent.*", "0", "lost"],
        "bounds": {"zz": {"max_ratio": 0.3}},
        "quality": {"accurcy": ">= 0.9", "loss": "drop <= 1 pt", "accuracy": ">= 0.9"},
    }
    found = all_examined(tmp_path, **keys)
    patterns = [check.text.partition(" matches")[0] for check in found if "keep" in check.name]
    assert patterns == ["keep: 'absent.*'", "keep: 'lost'", "bounds: 'zz'"]
    metrics = [check for check in found if check.name == "quality"]
    assert {check.state for check in metrics} == {"bad"}
    assert metrics[0].text == "quality.accurcy is no metric of this task · nearest: accuracy"
    assert metrics[1].text.startswith("quality.loss: a drop needs to know what is better")
    assert len(metrics) == 2


def test_metrics_are_looked_for_on_one_validation_batch(tmp_path: Path) -> None:
    (tmp_path / "batches.py").write_text(BATCHES)
    wanted = {"quality": {"first": ">= 0.9"}, "task": "batches.py:First"}
    good = examined(tmp_path, **wanted)["quality"]
    assert (good.state, good.text) == ("good", "limits metrics of the task (accuracy, loss, first)")
    failing = examined(tmp_path, **wanted, task_args={"is_enough": False})["quality"]
    assert failing.state == "warn"
    assert "are not checked: First.evaluate failed on val: ValueError: two batches" in failing.text
    assert "quality" not in examined(tmp_path, task="batches.py:First")


def test_patterns_are_held_against_every_starting_model_but_no_smaller_one(tmp_path: Path) -> None:
    starts, smaller = {"one": {}, "two": {}}, {"least": "mine.py:Weighted"}
    search = {"baselines": {"smaller": smaller}}
    found = examined(tmp_path, starting_models=starts, search=search, keep=["absent"])
    restricted = [name for name in found if name.startswith("keep")]
    assert restricted == ["keep and bounds one", "keep and bounds two"]


def test_a_model_that_cannot_be_built_is_bad(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    found = examined(tmp_path, task="broken.py:Broken", keep=["0"])["keep and bounds"]
    assert found.state == "bad"
    assert found.text.startswith("Broken.build_model failed: FileNotFoundError: ")
