"""Saved models: a recipe and the weights that its checksum names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.store import RunFolder, read_model, recipe_of, save_model
from autoprune.store.models import receive_model, untied

CONFIG = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"torch": "2"})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(3)


def test_a_saved_model_comes_back_whole_with_what_was_tied(folder: RunFolder) -> None:
    model = Tied()
    recipe = recipe_of(
        Candidate(Architecture({"a": 2})), {"a": (0, 2)}, task="digits", task_args={"n": 1}
    )
    artifact = folder.save_model(7, model, recipe)
    assert artifact == "models/7"
    again, state = read_model(folder.path / artifact)
    assert again.kept_indices == {"a": (0, 2)}
    assert (again.task, again.task_args) == ("digits", {"n": 1})
    assert again.candidate == Candidate(Architecture({"a": 2}))
    assert set(again.tied.items()) == {("out.weight", "embed.weight")}
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert Tied().load_state_dict(state, strict=True)
    assert [path.name for path in (folder.path / "models").iterdir()] == ["7"]


def test_what_is_no_model_is_named(folder: RunFolder) -> None:
    with pytest.raises(StoreError, match="holds no saved model"):
        read_model(folder.path)
    recipe = recipe_of(Candidate(Architecture()), {}, task="digits")
    path = folder.path / folder.save_model(0, nn.Linear(2, 2), recipe)
    (path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(StoreError, match=r"weights\.safetensors is not what candidate\.json was"):
        read_model(path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(StoreError, match=r"weights\.safetensors cannot be read"):
        read_model(path)
    (path / "candidate.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="must have format 2, got 99"):
        read_model(path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model of 2 x 2 weights."""
    recipe = recipe_of(Candidate(Architecture({"a": 2})), {"a": (0, 1)}, task="digits")
    save_model(tmp_path / "model", nn.Linear(2, 2), recipe)
    return tmp_path / "model"


def test_weights_that_are_not_those_of_the_recipe_are_refused(saved: Path) -> None:
    recipe = read_model(saved)[0]
    save_model(saved.parent / "other", nn.Linear(2, 2), recipe)
    content = (saved.parent / "other" / "weights.safetensors").read_bytes()
    (saved / "weights.safetensors").write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_model(saved)
    assert str(caught.value) == (
        f"{saved}/weights.safetensors is not what candidate.json was written with (its sha256 "
        "differs) · the file was damaged or replaced: restore both"
    )
    assert read_model(saved.parent / "other")[0].kept_indices == {"a": (0, 1)}


def change(saved: Path, **keys: object) -> None:
    content = json.loads((saved / "candidate.json").read_text())
    (saved / "candidate.json").write_text(json.dumps({**content, **keys}))


@pytest.mark.parametrize("key", ["task", "candidate", "kept_indices", "format"])
def test_a_recipe_without_a_key_names_it(saved: Path, key: str) -> None:
    content = json.loads((saved / "candidate.json").read_text())
    del content[key]
    (saved / "candidate.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=rf"candidate\.json .*{key}"):
        read_model(saved)


def test_a_recipe_that_ties_to_nothing_is_refused(saved: Path) -> None:
    change(saved, tied={"a": "b"})
    with pytest.raises(StoreError) as caught:
        read_model(saved)
    says = f"{saved}/candidate.json is damaged: tied: weights.safetensors holds no 'b'"
    assert str(caught.value) == says


def test_a_model_of_another_version_says_what_to_do(saved: Path) -> None:
    change(saved, format=1)
    with pytest.raises(StoreError) as caught:
        read_model(saved)
    assert str(caught.value) == (
        f"{saved}/candidate.json must have format 2, got 1 · it was written by another version of "
        "autoprune: save the model again with this one"
    )


def test_what_is_written_can_be_read_by_others_and_replaces_an_older_model(saved: Path) -> None:
    (saved / "old.onnx").write_text("x")
    save_model(saved, nn.Linear(3, 2), read_model(saved)[0])
    assert sorted(file.name for file in saved.iterdir()) == [
        "candidate.json",
        "weights.safetensors",
    ]
    assert saved.stat().st_mode & 0o777 == 0o755
    assert (saved / "weights.safetensors").stat().st_mode & 0o777 == 0o644
    assert read_model(saved)[0].shapes == {"weight": (2, 3), "bias": (2,)}
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_model_that_cannot_be_written_leaves_the_older_one(saved: Path) -> None:
    recipe, before = read_model(saved)
    unwritable = replace(recipe, task_args={"x": float("nan")})  # found after the weights
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(saved, nn.Linear(2, 2), unwritable)
    again = read_model(saved)[1]
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_only_kept_units_of_the_architectures_groups_are_in_a_recipe() -> None:
    made = recipe_of(
        Candidate(Architecture({"a": 2})),
        {"a": torch.tensor([3, 5]), "b": (0,)},
        task="digits",
        ignored_layers=["head"],
        num_heads={"attention": 4},
    )
    assert made.kept_indices == {"a": (3, 5)}
    assert {type(index) for index in made.kept_indices["a"]} == {int}
    assert (made.ignored_layers, made.num_heads) == (("head",), {"attention": 4})
    assert made.example_input() is None


def test_the_example_input_comes_back_without_its_data() -> None:
    example = {"x": torch.rand(1, 3), "tokens": torch.tensor([[2, 7]])}
    found = recipe_of(Candidate(Architecture()), {}, task="t", example=example).example_input()
    assert torch.equal(found["x"], torch.zeros(1, 3))
    assert torch.equal(found["tokens"], torch.tensor([[7, 7]]))


def test_views_of_one_memory_are_written_apart_and_equal_ones_once() -> None:
    whole = torch.arange(6.0)
    state = {
        "all": whole,
        "same": whole,
        "part": whole[:3],
        "square": whole[:4].view(2, 2),
        "turned": whole[:4].view(2, 2).T,
        "none": torch.empty(0),
        "nothing": torch.empty(0),
    }
    tensors, tied = untied(state)
    assert tied == {"same": "all"}
    assert set(tensors) == {"all", "part", "square", "turned", "none", "nothing"}
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_model_is_received_whole(saved: Path, tmp_path: Path) -> None:
    files = {**files_of(saved), "model.int8.onnx": b"int8", "int8.json": b"{}"}
    receive_model(tmp_path / "new" / "0", files)
    assert files_of(tmp_path / "new" / "0") == files
    receive_model(tmp_path / "new" / "0", files_of(saved))
    assert files_of(tmp_path / "new" / "0") == files_of(saved)


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["candidate.json"], "candidate.json"),
        ([], ""),
        (
            ["candidate.json", "weights.safetensors", "../evil"],
            "../evil, candidate.json, weights.safetensors",
        ),
    ],
)
def test_other_files_than_those_of_a_model_are_not_received(
    tmp_path: Path, names: list[str], listed: str
) -> None:
    with pytest.raises(StoreError) as caught:
        receive_model(tmp_path / "0", dict.fromkeys(names, b""))
    says = f"a model holds candidate.json and weights.safetensors, got {listed}"
    assert str(caught.value) == says
    assert list(tmp_path.iterdir()) == []
