"""A whole front as int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_run
from small_run import Pair, model_of
from timings import Clock
from torch import Tensor, nn

from autoprune.errors import StoreError, TrainingError, UsageError
from autoprune.quantization import quantize_front
from autoprune.quantization.front import Loader
from autoprune.store import (
    QuantizationSettings,
    RetrainingSummary,
    RunFolder,
    Spread,
    read_quantization,
)

SETTINGS = QuantizationSettings("minmax", samples=12)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return small_run.make(tmp_path)


def member(run: RunFolder, number: int) -> Loader:
    return lambda: (model_of(number), run.path / "models" / str(number))


def lost() -> tuple[nn.Module, Path]:
    raise StoreError("models/7 holds no saved model")


def test_dense_and_members_are_measured_together_and_written(run: RunFolder) -> None:
    clock = Clock()
    members = {0: member(run, 0), 7: lost, 1: member(run, 1)}
    found = quantize_front(run, members, Pair(), SETTINGS, threads=1, measure=clock)
    assert list(found.members) == [0, 1]
    assert found.skipped == {7: "models/7 holds no saved model"}
    assert [len(models) for models in clock.asked] == [6]
    assert (found.dense.float32.latency_ms, found.dense.int8.latency_ms) == (1.0, 2.0)
    assert [found.members[n].int8.latency_ms for n in (0, 1)] == [4.0, 6.0]
    assert (run.path / "dense.int8.onnx").is_file()
    assert read_quantization(run.path) is None  # the dense model's has a name of its own
    assert found.dense.file == "dense.int8.onnx"
    for number, report in found.members.items():
        folder = run.path / "models" / str(number)
        assert read_quantization(folder) == report
        assert (folder / report.file).stat().st_size == report.int8.file_bytes


def test_a_retrained_member_is_named_by_its_seed(run: RunFolder) -> None:
    retrained = run.retraining(1)
    candidate = run.records()[1].candidate
    retrained.save_summary(RetrainingSummary(1, candidate, 2.0, (4,), {"accuracy": Spread(0.9)}))
    retrained.seed_folder(4).mkdir()
    members = {0: member(run, 0), 1: lambda: (model_of(1), retrained.seed_folder(4))}
    found = quantize_front(run, members, Pair(), SETTINGS, threads=1, measure=Clock())
    assert found.retrained == {1: 4}
    assert [found.name(number) for number in (0, 1)] == ["trial 0", "trial 1, retrained seed 4"]


class Empty(Pair):
    def train_loader(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        return []


def test_a_dense_model_that_cannot_be_quantized_ends_it(run: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"Empty\.train_loader gave none"):
        quantize_front(run, {}, Empty(), SETTINGS, threads=1, measure=Clock())
    assert not (run.path / "dense.int8.onnx").exists()


class Failing(Pair):
    """Its first evaluation, of the dense model in both precisions, works."""

    def __init__(self) -> None:
        self.left = 2

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        self.left -= 1
        if self.left < 0:
            raise TrainingError("accuracy became nan")
        return {"accuracy": 0.5}


def test_a_member_that_cannot_be_judged_is_skipped_with_the_reason(run: RunFolder) -> None:
    members = {0: member(run, 0)}
    found = quantize_front(run, members, Failing(), SETTINGS, threads=1, measure=Clock())
    assert found.members == {}
    assert "accuracy became nan" in found.skipped[0]
    assert not (run.path / "models" / "0" / "int8.json").exists()
