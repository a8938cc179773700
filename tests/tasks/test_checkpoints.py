"""Weights on disk: every form that is read, and each refusal in its exact words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks import checkpoints


def model(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def weights(width: int = 5) -> dict[str, Tensor]:
    return model(width).state_dict()


def loaded(path: Path) -> nn.Module:
    made = model()
    checkpoints.load(made, path, task="Net")
    return made


def refusal(path: Path) -> str:
    with pytest.raises(TaskError) as caught:
        loaded(path)
    return str(caught.value)


def test_what_is_saved_is_loaded_and_no_draft_stays(tmp_path: Path) -> None:
    given, path = model(), tmp_path / "new" / "folder" / "w.safetensors"
    checkpoints.save(given, path)
    found = loaded(path)
    for name, value in given.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert [it.name for it in path.parent.iterdir()] == ["w.safetensors"]
    checkpoints.save(model(), path)  # in place of the other
    assert [it.name for it in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("nested", ["", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_scripts_put_weights_where_they_like(
    tmp_path: Path, nested: str, prefix: str
) -> None:
    given = weights()
    content: Any = {f"{prefix}{key}": value for key, value in given.items()}
    torch.save({"epoch": 3, nested: content} if nested else content, tmp_path / "w.pt")
    assert torch.equal(loaded(tmp_path / "w.pt").state_dict()["0.weight"], given["0.weight"])


def test_counters_of_batches_may_be_absent(tmp_path: Path) -> None:
    given = {key: value for key, value in weights().items() if "num_batches" not in key}
    save_file(given, tmp_path / "w.safetensors")
    assert torch.equal(loaded(tmp_path / "w.safetensors").state_dict()["2.bias"], given["2.bias"])


def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path: Path) -> None:
    given = weights()
    given["extra"] = torch.zeros(1)
    given["2.bias"] = torch.zeros(4)
    del given["1.bias"]
    path = tmp_path / "w.safetensors"
    save_file(given, path)
    made = model()
    before = made.state_dict()["0.weight"].clone()
    with pytest.raises(TaskError) as caught:
        checkpoints.load(made, path, task="Net")
    assert str(caught.value) == (
        f"checkpoint {path} does not fit Net.build_model() · missing in the file: 1.bias · not in "
        "the model: extra · other shape: 2.bias is (4,), the model has (3,)"
    )
    assert torch.equal(made.state_dict()["0.weight"], before)


def test_of_many_keys_three_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"k{n}": torch.zeros(1) for n in range(5)}, path)
    said = refusal(path)
    assert "not in the model: k0, k1, k2 and 2 more" in said
    assert "missing in the file: 0.weight, 0.bias, 1.weight and 5 more" in said
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"nothing of the kind", b""])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    (tmp_path / "w.pt").write_bytes(content)
    path = tmp_path / "w.safetensors"
    assert refusal(path).startswith(f"checkpoint {path} is no safetensors file: ")
    path = tmp_path / "w.pt"
    assert refusal(path) == (
        f"checkpoint {path} cannot be read as a plain state dict · write it with "
        "torch.save(model.state_dict(), path), or better as safetensors"
    )


def test_a_whole_model_is_not_unpickled(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "w.pt")
    assert "cannot be read as a plain state dict" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), ({"a": 1}, "dict")])
def test_what_is_no_state_dict_says_what_it_is(tmp_path: Path, content: Any, kind: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    assert refusal(path) == (
        f"checkpoint {path} must hold a state dict (names and tensors), got {kind} "
        "· write it with torch.save(model.state_dict(), path)"
    )


def test_tied_weights_can_be_kept(tmp_path: Path) -> None:
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight  # type: ignore[assignment]
    path = tmp_path / "deep" / "tied.safetensors"
    checkpoints.save(tied, path)
    assert set(load_file(path)) == set(tied.state_dict())
    checkpoints.load(tied, path, task="T")


def test_views_are_saved_as_they_are_seen(tmp_path: Path) -> None:
    holder = nn.Module()
    holder.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    checkpoints.save(holder, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors")["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
