"""Records of one small search, and a run to put them in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.record import TrialRecord
from autoprune.store import RunFolder


def record(number: int, **changes: object) -> TrialRecord:
    blank = TrialRecord(
        number,
        Candidate(Architecture({"conv1": 8, "conv2": 24})),
        "complete",
        seed=0,
        epochs=2.0,
        metrics={"accuracy": 0.9},
        predicted=Cost(params=10, macs=100),
        times={"train_s": 1.5},
        origin="tpe",
    )
    return replace(blank, **changes)  # type: ignore[arg-type]


CONFIG = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {"torch": "2"})
