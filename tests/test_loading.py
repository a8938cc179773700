"""Which saved model is meant, and how it is built again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import small_run
import torch
from small_run import Pair, model_of
from torch import nn

from autoprune import loading
from autoprune.architecture import Architecture
from autoprune.config import RunConfig
from autoprune.errors import StoreError, TaskError, UsageError
from autoprune.store import (
    RetrainingPlan,
    RetrainingSummary,
    RunFolder,
    Spread,
    read_model,
    recipe_of,
    save_model,
    write_packed,
)

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return small_run.make(tmp_path)


def same(model: nn.Module, number: int) -> bool:
    """Whether it computes what the trial's model does, in eval mode."""
    return not model.training and torch.equal(model(X), model_of(number)(X))


@pytest.mark.parametrize(
    ("pick", "number"),
    [("recommended", 0), (" recommended ", 0), ("min macs", 1), ("trial=1", 1), ("macs<=20", 1)],
)
def test_a_run_and_a_word_mean_one_trial(run: RunFolder, pick: str, number: int) -> None:
    found, record = loading.picked(run, pick)
    assert (found.path, record.number) == (run.path, number)
    assert loading.model_folder(run.path, pick) == run.path / "models" / str(number)
    model = loading.load(run.path, pick=pick)
    assert same(model, number)
    assert model[0].out_features == len(small_run.KEPT[number])


def test_a_models_folder_and_a_packed_file_need_no_run(run: RunFolder, tmp_path: Path) -> None:
    folder = run.path / "models" / "1"
    assert loading.model_folder(folder) == folder
    write_packed(tmp_path / "small.packed", *read_model(folder))
    assert loading.model_folder(tmp_path / "small.packed") == tmp_path / "small.packed"
    for place in (folder, str(folder), tmp_path / "small.packed"):
        assert same(loading.load(place), 1)


def test_loading_draws_no_random_numbers(run: RunFolder) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loading.load(run.path)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_is_loaded_without_its_task(run: RunFolder, tmp_path: Path) -> None:
    """In a folder of its own, as somebody else may get it: no code of the task is imported."""
    alone = shutil.copytree(run.path / "models" / "0", tmp_path / "alone")
    content = json.loads((alone / "candidate.json").read_text())
    (alone / "candidate.json").write_text(json.dumps({**content, "task": "/nowhere.py:Theirs"}))
    dense = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert same(loading.load(alone, model=dense), 0)
    with pytest.raises(TaskError, match="not named on this machine before"):
        loading.load(alone)
    with pytest.raises(UsageError, match=r"^load takes a task or a model, got both$"):
        loading.load(alone, model=dense, task=Pair())


def test_without_an_example_input_a_model_needs_its_task(run: RunFolder, tmp_path: Path) -> None:
    record = run.records()[1]
    recipe = recipe_of(record.candidate, {"0": small_run.KEPT[1]}, task="small_run:Pair")
    save_model(tmp_path / "bare", model_of(1), recipe)
    with pytest.raises(StoreError) as caught:
        loading.load(tmp_path / "bare", model=Pair().build_model())
    assert str(caught.value) == (
        f"{tmp_path / 'bare'}: the recipe holds no example input · give the task: "
        "load(path, task=...)"
    )
    assert same(loading.load(tmp_path / "bare", task=Pair()), 1)


class Wide(Pair):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))


class Narrow(Pair):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Named(Pair):
    def build_model(self) -> nn.Module:
        model = nn.Sequential()
        model.add_module("first", nn.Linear(4, 8))
        model.add_module("last", nn.Linear(8, 3))
        return model


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Wide(), ": the weights do not fit Wide: size mismatch for 2.weight: "),
        (Narrow(), ": widths['0'] must be at most 5, got 6"),
        (Named(), ": Named has no group '0' · it was saved from another architecture"),
    ],
)
def test_a_model_of_another_architecture_is_refused(run: RunFolder, task: Pair, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        loading.load(run.path, task=task)
    assert str(caught.value).startswith(f"{run.path / 'models' / '0'}{says}")
    assert "\n" not in str(caught.value)


def test_weights_with_a_pattern_are_taken_as_they_are() -> None:
    dense = Pair().build_model()
    state = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    state["0.weight"][:, ::2] = 0.0
    sparse = Architecture({"0": 8}, patterns={"0.weight": "2:4"})
    model = loading.rebuild(Pair(), sparse, {"0": range(8)}, state, "here")
    assert torch.equal(model[0].weight, state["0.weight"])


def retrain(run: RunFolder, number: int) -> Path:
    """As if a trial had been retrained with the seeds 3 and 4: its folder."""
    record = run.records()[number]
    folder = run.retraining(number)
    recipe = recipe_of(record.candidate, {"0": small_run.KEPT[number]}, task="small_run:Pair")
    save_model(folder.seed_folder(3), model_of(number), recipe)
    folder.save_summary(
        RetrainingSummary(number, record.candidate, 1.0, (3, 4), {"accuracy": Spread(0.9)})
    )
    return folder.path


def test_an_unfinished_retraining_is_called_so(run: RunFolder) -> None:
    folder = run.retraining(0)
    folder.path.mkdir(parents=True)
    folder.save_plan(RetrainingPlan("key", 5.0, (0, 1)))
    with pytest.raises(StoreError, match=r"not finished · .* --epochs 5 --seeds 2"):
        loading.model_folder(folder.path)


def test_the_retrained_model_of_the_first_seed_is_preferred(run: RunFolder) -> None:
    path = retrain(run, 0)
    assert path == run.path / "retrained" / "0"
    assert loading.model_folder(run.path, "trial=0") == path / "seed-3"
    assert loading.model_folder(path, "trial=1") == path / "seed-3"
    assert loading.model_folder(run.path, "trial=1") == run.path / "models" / "1"


def test_words_say_which_model_of_a_run_it_is(run: RunFolder, tmp_path: Path) -> None:
    searched, retrained = run.path / "models" / "1", retrain(run, 0)
    words = "trial 1, as the search trained it (2 epochs; retrain does so in full)"
    assert loading.model_words(searched) == words
    said = "trial 0, retrained seed {} (1 epoch; other seeds: {})"
    assert loading.model_words(retrained / "seed-3") == said.format(3, 4)
    assert loading.model_words(retrained / "seed-4") == said.format(4, 3)
    assert loading.model_words(tmp_path) == ""


def test_what_lies_in_a_run_knows_its_configuration(run: RunFolder, tmp_path: Path) -> None:
    for place in (run.path, run.path / "models" / "0", retrain(run, 0) / "seed-3"):
        found = loading.config_around(place)
        assert found is not None
        assert found.task == "small_run:Pair"
    assert loading.config_around(tmp_path) is None
    deep = run.path / "retrained" / "0" / "seed-3" / "deeper"
    assert loading.config_around(deep) is None


def test_a_run_without_a_front_says_how_to_go_on(run: RunFolder) -> None:
    (run.path / "front.json").unlink()
    with pytest.raises(StoreError) as caught:
        loading.picked(run, "best")
    assert str(caught.value) == (
        f"{run.path} has no front yet · resume it with: autoprune resume {run.path}"
    )


def test_nothing_is_recommended_of_an_empty_front(run: RunFolder) -> None:
    front = loading.front_of(run, run.records())
    found = loading.recommended(run, front)
    assert found is not None
    assert found.record.number == 0
    assert loading.recommended(run, replace(front, records=())) is None


def test_a_task_given_as_an_object_must_be_given_again() -> None:
    reference = loading.reference_of(Pair())
    assert reference == "python:Pair"
    config = RunConfig.from_dict({"task": reference, "budget": {"macs": 1}})
    with pytest.raises(TaskError) as caught:
        loading.task_of(config)
    assert str(caught.value) == (
        "this run was made with a Task object (Pair), which a command does not have · in Python: "
        "autoprune.export(run, task=task); likewise retrain, resume, verify, quantize, load"
    )


def test_a_smaller_dense_model_is_not_picked_but_named_by_its_folder(run: RunFolder) -> None:
    small = replace(
        run.records()[0],
        number=-1,
        origin="baseline:smaller net20",
        artifact="models/smaller-net20",
    )
    run.save_smaller([small])
    with pytest.raises(UsageError, match=r"net20 is a smaller .*folder, .*models/smaller-net20$"):
        loading.picked(run, " net20 ")
    assert loading.picked(run, "trial=0")[1].number == 0
