import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks import BUILT_IN, load_dense, load_task, task_class
from autoprune.tasks.load import built

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from autoprune.tasks import Task
from sibling import WIDTH

@dataclass
class Settings:
    width: int = WIDTH

class Small(Task):
    dense_epochs = 1

    def __init__(self, width: int = Settings().width, data=None):
        self.width, self.data = width, data

    def build_model(self):
        return nn.Sequential(nn.Linear(2, self.width), nn.BatchNorm1d(self.width),
                             nn.Linear(self.width, 2))

    def example_input(self):
        return torch.zeros(1, 2)

    def train_loader(self, seed):
        x = torch.randn(32, 2, generator=torch.Generator().manual_seed(seed))
        return [(x, (x[:, 0] > 0).long())]

    def val_loader(self):
        return self.train_loader(1)

    def test_loader(self):
        return self.train_loader(2)

class Half(Task):
    def build_model(self):
        return nn.Linear(1, 1)

class Other:
    pass

class Failing(Small):
    def __init__(self):
        raise KeyError("no such key")

class Untrained(Small):
    dense_epochs = None

class Named(Small):
    checkpoint = "weights.safetensors"

class Sideways(Small):
    direction = "up"
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUTOPRUNE_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "sibling", raising=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "task.py").write_text(SOURCE)
    (tmp_path / "sibling.py").write_text("WIDTH = 5\n")
    return tmp_path


def load(folder, name="Small", **options):
    return load_task(f"task.py:{name}", base=folder, **options)


def test_a_class_in_a_file_is_constructed_with_its_arguments(folder):
    assert load(folder).width == 5
    assert load(folder, args={"width": 7}).build_model()[0].out_features == 7


def test_a_class_in_a_module(folder):
    (folder / "my_module_task.py").write_text(SOURCE)
    assert load_task("my_module_task:Small", base=folder).width == 5


def test_an_edited_file_is_read_again(folder):
    assert load(folder).width == 5
    (folder / "task.py").write_text(SOURCE.replace("width: int = WIDTH", "width: int = 9"))
    assert load(folder).width == 9


def test_a_task_of_a_file_unpickles_in_another_process(folder):
    task = load(folder, args={"width": 6})
    (folder / "task.pickle").write_bytes(pickle.dumps(task))
    script = (
        "import pickle, sys; task = pickle.load(open(sys.argv[1], 'rb'));"
        "print(task.width, len(task.train_loader(0)), type(task).__name__)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(folder / "task.pickle")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == ["6", "1", "Small"]
    assert copy.deepcopy(task).width == 6


def test_data_goes_to_the_argument_or_comes_from_the_environment(folder, monkeypatch):
    assert load(folder).data is None
    assert load(folder, data="/here").data == Path("/here")
    monkeypatch.setenv("AUTOPRUNE_DATA", "/there")
    assert load(folder).data == Path("/there")
    assert load(folder, data="/here").data == Path("/here")
    monkeypatch.chdir(folder)
    assert load(folder, data="near").data == folder / "near"
    assert load_task("digits").batch_size == 64  # takes no data, and minds no variable


def test_a_dense_model_is_not_taken_for_another_task_of_the_same_name(tmp_path):
    found = []
    for place, width in (("one", 5), ("two", 5), ("two", 6)):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        (folder / "task.py").write_text(
            SOURCE.replace("from sibling", f"SEED = {width}\nfrom sibling")
        )
        (folder / "sibling.py").write_text("WIDTH = 5\n")
        load_dense(load(folder), tmp_path / "kept")
        found.append(len(list((tmp_path / "kept" / "dense").iterdir())))
    assert found == [1, 2, 3]  # another file, then another content
    load_dense(load(tmp_path / "one"), tmp_path / "kept")
    assert len(list((tmp_path / "kept" / "dense").iterdir())) == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digts", "task must be one of digits, .* got 'digts' · did you mean digits?"),
        ("gone.py:Small", "gone.py does not exist · write it as"),
        ("task.py:Smal", "holds no class 'Smal' · it holds Small, Half, Failing"),
        ("task.py:Other", "Other must be a class that derives from autoprune.Task, got a class"),
        ("task.py:WIDTH", "derives from autoprune.Task, got a value of type int"),
        (
            "task.py:Half",
            "Half must define test_loader, train_loader, val_loader$",
        ),
        ("task.py:Failing", "cannot be made: KeyError: 'no such key'"),
        ("task.py:Sideways", "direction must be 'maximize' or 'minimize', got 'up'"),
        (
            "no_such_package.tasks:A",
            "cannot be found .no module named 'no_such_package'. · install",
        ),
        ("broken.py:A", r"cannot be imported: ZeroDivisionError: .* \(broken.py, line 2\)"),
        ("syntax.py:A", r"cannot be imported: SyntaxError: .*line 1"),
        ("needs.py:A", r"cannot be imported: ModuleNotFoundError: .*'absent_thing'"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(folder, reference, message):
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "needs.py").write_text("import absent_thing\n")
    with pytest.raises(TaskError, match=message) as caught:
        load_task(reference, base=folder)
    assert "\n" not in str(caught.value)


def test_unknown_arguments_and_data_without_use_are_refused(folder):
    with pytest.raises(TaskError, match=r"task_args.widht is no argument .* did you mean width?"):
        load(folder, args={"widht": 3})
    with pytest.raises(TaskError, match="digits reads no data folder, got data: /x"):
        load_task("digits", data="/x")


def test_the_built_in_task_can_be_found():
    assert list(BUILT_IN) == ["digits"]
    assert task_class("digits").__name__ == "Digits"


def test_the_dense_model_is_trained_once_and_kept(folder, tmp_path):
    task = load(folder)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = load_dense(task, tmp_path / "kept")
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    files = list((tmp_path / "kept").rglob("*.safetensors"))
    assert len(files) == 1

    type(task).train_dense = None  # would fail if it were called again
    second = load_dense(load(folder), tmp_path / "kept")
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_it_is_said_where_the_dense_model_comes_from(folder, tmp_path):
    said = []
    task = load(folder)
    type(task).dense_epochs = 20
    load_dense(task, tmp_path / "kept", say=said.append)
    assert said[0] == "the dense model: 20 epochs of AdamW, peak learning rate 0.002"
    numbers = [int(note.split()[4]) for note in said[1:]]
    assert numbers == list(range(2, 21, 2))  # ten lines
    assert said[-1].startswith("the dense model: epoch 20 of 20, loss ")
    load_dense(task, tmp_path / "kept", say=said.append)
    assert said[-1].startswith(f"the dense model, trained before: {tmp_path / 'kept'}")

    type(task).train_dense = lambda self, model, seed: None
    load_dense(task, tmp_path / "other", say=said.append)
    assert said[-1] == "the dense model: train_dense of the task"


def test_settings_without_a_lasting_name_do_not_train_again(folder, tmp_path):
    for _ in range(2):
        task = load(folder)
        task.widest = object()
        load_dense(task, tmp_path / "kept")
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1


def test_other_settings_are_another_dense_model(folder, tmp_path):
    load_dense(load(folder), tmp_path / "kept")
    load_dense(load(folder, args={"width": 4}), tmp_path / "kept")
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 2


def test_no_epochs_means_that_build_model_returns_trained_weights(folder, tmp_path):
    task = load(folder)
    task.dense_epochs = 0
    nn.init.constant_((made := nn.Linear(1, 1)).weight, 3.0)
    task.build_model = lambda: made
    assert load_dense(task, tmp_path / "kept").weight.item() == 3.0
    assert not (tmp_path / "kept").exists()


def test_a_model_that_cannot_be_built_is_named(folder, tmp_path):
    task = load(folder)
    task.build_model = lambda: {}["blocks"]
    with pytest.raises(TaskError, match=r"^Small\.build_model failed: KeyError: 'blocks'$"):
        load_dense(task, tmp_path)
    task.build_model = lambda: nn.ReLU
    with pytest.raises(TaskError, match=r"^Small\.build_model must return an nn\.Module, got "):
        built(task)


def test_a_task_without_weights_and_epochs_is_refused(folder, tmp_path):
    with pytest.raises(TaskError, match="Untrained must name its trained weights: set checkpoint"):
        load_dense(load(folder, "Untrained"), tmp_path)


@pytest.mark.parametrize("form", ["safetensors", "torch", "nested", "data_parallel"])
def test_checkpoints_of_all_forms_load(folder, form):
    task = load(folder, "Named")
    model = task.build_model()
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    if form == "safetensors":
        save_file(weights, folder / "weights.safetensors")
    else:
        task.checkpoint = "weights.pt"
        wrapped = {
            "torch": model.state_dict(),
            "nested": {"epoch": 3, "state_dict": weights},
            "data_parallel": {f"module.{key}": value for key, value in weights.items()},
        }
        torch.save(wrapped[form], folder / "weights.pt")
    loaded = load_dense(task)  # found beside the task's file
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_a_checkpoint_that_is_not_there_is_refused(folder):
    with pytest.raises(TaskError, match=r"weights.safetensors does not exist · give an absolute"):
        load_dense(load(folder, "Named"))
