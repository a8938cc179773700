"""A retraining on disk: its plan, its checkpoints, its summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Cost, Device, Timing
from autoprune.candidate import Candidate
from autoprune.errors import StoreError
from autoprune.store import (
    DenseTest,
    RetrainingFolder,
    RetrainingPlan,
    RetrainingSummary,
    SeedReport,
    Spread,
    read_metrics,
    write_metrics,
)

COST = Cost(timings=(Timing("phone", 2.0, None, Device("arm")),), source="measured")
SUMMARY = RetrainingSummary(
    7,
    Candidate(Architecture({"a": 3})),
    20.0,
    (4, 2),
    {"accuracy": Spread(0.9, 0.01)},
    {"accuracy": Spread(0.91)},
    DenseTest({"accuracy": 0.92}, COST),
    COST,
    (SeedReport(4, {"accuracy": 0.9}, 40.0, ({"epoch": 1.0},), {"train_s": 2.0}),),
)


@pytest.fixture
def folder(tmp_path: Path) -> RetrainingFolder:
    return RetrainingFolder(tmp_path / "retrained" / "7")


def test_pointing_at_a_folder_does_not_touch_it(folder: RetrainingFolder) -> None:
    assert not folder.is_finished
    assert folder.plan() is None
    assert not folder.path.exists()
    with pytest.raises(StoreError, match=r"summary\.json does not exist"):
        folder.summary()


def test_the_plan_comes_back(folder: RetrainingFolder) -> None:
    plan = RetrainingPlan("abc", 2.5, (0, 3))
    folder.save_plan(plan)
    assert RetrainingFolder(str(folder.path)).plan() == plan
    assert not folder.is_finished


def test_a_plan_of_before_says_nothing_of_int8(folder: RetrainingFolder) -> None:
    folder.save_plan(RetrainingPlan("abc", 2.5, (0, 3), quantization_aware=True))
    file = folder.path / "plan.json"
    content = json.loads(file.read_text())
    assert content.pop("quantization_aware") is True
    del content["crc32"]
    file.write_text(json.dumps(content))
    assert folder.plan() == RetrainingPlan("abc", 2.5, (0, 3), quantization_aware=None)


def test_with_the_summary_it_is_finished_and_the_checkpoints_are_gone(
    folder: RetrainingFolder,
) -> None:
    write_metrics(folder.checkpoints / "seed-4", {"accuracy": 0.9})
    folder.save_summary(SUMMARY)
    assert folder.is_finished
    assert folder.summary() == SUMMARY
    assert not folder.checkpoints.exists()
    assert folder.first_model == folder.seed_folder(4) == folder.path / "seed-4"
    names = ("seed-2", "seed-4", "seed-3", "checkpoints")
    assert [folder.seed_at(folder.path / name) for name in names] == [2, 4, None, None]


def test_a_summary_without_a_seed_is_damage(folder: RetrainingFolder) -> None:
    folder.save_summary(SUMMARY)
    file = folder.path / "summary.json"
    content = json.loads(file.read_text())
    del content["crc32"]
    file.write_text(json.dumps({**content, "seeds": []}))
    with pytest.raises(StoreError) as caught:
        folder.summary()
    assert str(caught.value) == f"{file} is damaged: seeds must hold one, got none"


def test_test_metrics_are_noted_once(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) is None
    write_metrics(tmp_path, {"accuracy": 0.5, "loss": 1.0})
    assert read_metrics(tmp_path) == {"accuracy": 0.5, "loss": 1.0}
    (tmp_path / "test.json").write_text('{"accuracy": "high"}')
    with pytest.raises(StoreError, match=r"test\.json is damaged: accuracy: must be a valid num"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("measured", "names"), [(COST, ("phone",)), (None, ("",)), (Cost(), ("",))]
)
def test_the_devices_of_a_summary(measured: Cost | None, names: tuple[str, ...]) -> None:
    made = RetrainingSummary(7, SUMMARY.candidate, 1.0, (0,), {}, measured=measured)
    assert made.devices == names
