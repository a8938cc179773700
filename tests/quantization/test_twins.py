"""A model's float32 and int8 files side by side."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import Pair, model_of
from timings import Clock
from torch import nn

from autoprune.quantization import Twin, compared, saved, timed, twin_of
from autoprune.store import QuantizationSettings, read_quantization

SETTINGS = QuantizationSettings("minmax", samples=12)
X = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))


class Known(Pair):
    """A task whose metric tells float32 from int8, and which splits were read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def example_input(self) -> torch.Tensor:
        return X

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        self.read.append(split)
        with torch.no_grad():
            return {"accuracy": float(model(X).sum())}


@pytest.fixture(scope="module")
def twin() -> Twin:
    return twin_of(model_of(0), Known(), SETTINGS, threads=1)


def test_both_files_compute_what_the_model_does(twin: Twin) -> None:
    with torch.no_grad():
        expected = model_of(0)(X)
    assert torch.allclose(twin.float32(X), expected, atol=1e-5)
    off = float((twin.int8(X) - expected).abs().max() / expected.abs().max())
    assert twin.difference == pytest.approx(off, rel=1e-5)
    assert 0.0 < twin.difference < 0.1


def test_sizes_of_validation_that_training_did_not_have_are_taken_too() -> None:
    class Texts(Known):
        def build_model(self) -> nn.Module:
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()

        def example_input(self) -> torch.Tensor:
            return torch.zeros(1, 6, 4)

        def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            x = torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(seed))
            return [(x, torch.zeros(8, dtype=torch.int64))]

    task = Texts()
    model = task.build_model()
    made = twin_of(model, task, SETTINGS, threads=1)
    fixed = made.int8.written.data
    made.int8(torch.zeros(3, 6, 4))
    assert made.int8.written.data == fixed
    for length in (5, 6, 9):
        x = torch.randn(3, length, 4, generator=torch.Generator().manual_seed(length))
        expected = model(x).detach()
        assert torch.allclose(made.float32(x), expected, atol=1e-5)
        assert float((made.int8(x) - expected).abs().mean()) < 0.03 * float(expected.abs().max())
    assert made.int8.written.data != fixed


@pytest.mark.parametrize("layers", [1, 2])
def test_an_output_that_holds_the_batch_elsewhere_has_a_free_batch(layers: int) -> None:
    class Sequences(Known):
        def example_input(self) -> torch.Tensor:
            return torch.zeros(1, 5, 4)

        def train_loader(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            x = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(seed))
            return [(x, torch.zeros(8, dtype=torch.int64))]

        def outputs(self, model: nn.Module, batch: Any) -> Any:
            return model(batch[0])

    torch.manual_seed(0)
    model = nn.GRU(4, 6, num_layers=layers, batch_first=True).eval()
    made = twin_of(model, Sequences(), SETTINGS, threads=1)
    for rows in (1, 3):
        x = torch.randn(rows, 5, 4)
        for found, expected in zip(made.float32(x), model(x), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)
        assert made.int8(x)[1].shape == (layers, rows, 6)


def test_the_test_split_is_read_only_if_asked(twin: Twin) -> None:
    task = Known()
    found = compared(twin, task, SETTINGS)
    assert task.read == ["val", "val"]
    assert (found.float32.test, found.int8.test) == ({}, {})
    expected = float(model_of(0)(X).detach().sum())
    assert found.float32.validation["accuracy"] == pytest.approx(expected, abs=1e-5)
    assert found.int8.validation != found.float32.validation
    assert found.float32.file_bytes == len(twin.float32.written.data)
    assert found.int8.file_bytes == len(twin.int8.written.data)
    assert (found.metric, found.direction, found.settings) == ("accuracy", "maximize", SETTINGS)
    task.read.clear()
    tested = compared(twin, task, SETTINGS, test=True)
    assert sorted(task.read) == ["test", "test", "val", "val"]
    assert tested.int8.test == tested.int8.validation


@pytest.mark.parametrize(("count", "groups"), [(1, [1]), (2, [2]), (5, [5]), (6, [5, 2])])
def test_all_take_turns_with_the_first_in_groups_of_four(
    twin: Twin, count: int, groups: list[int]
) -> None:
    report, clock = compared(twin, Known(), SETTINGS), Clock()
    twins = [replace(twin) for _ in range(count)]
    found = timed(twins, [report] * count, clock)
    assert [len(models) // 2 for models in clock.asked] == groups
    assert clock.where == [("onnxruntime", 1)] * len(groups)
    # the first is that of the first group; the others are those of their place in their own
    pairs = [(r.float32.latency_ms, r.int8.latency_ms) for r in found]
    starts = [1, *(100 * (k // 4) + 3 + 2 * (k % 4) for k in range(count - 1))]
    assert pairs == [(start, start + 1) for start in starts]


@pytest.mark.parametrize(("place", "named"), [("inside", "small.onnx"), ("elsewhere", None)])
def test_the_file_is_named_from_the_models_folder(
    twin: Twin, tmp_path: Path, place: str, named: str | None
) -> None:
    folder, file = tmp_path / "inside", tmp_path / place / "small.onnx"
    done = saved(twin, compared(twin, Known(), SETTINGS), file, folder)
    assert file.read_bytes() == twin.int8.written.data
    assert done.file == (named or str(file.resolve()))
    assert done.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_quantization(folder) == done


def test_a_report_may_have_another_name(twin: Twin, tmp_path: Path) -> None:
    report = compared(twin, Known(), SETTINGS)
    saved(twin, report, tmp_path / "dense.onnx", tmp_path, "dense.json")
    assert json.loads((tmp_path / "dense.json").read_text())["file"] == "dense.onnx"
    assert read_quantization(tmp_path) is None
