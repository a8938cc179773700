"""`retrained/<trial>/`: a trial retrained with several seeds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from autoprune.errors import StoreError
from autoprune.store.earlier_names import renamed, renamed_entry
from autoprune.store.files import read, write_json
from autoprune.store.values import FoundRate, RetrainingPlan, RetrainingSummary

SUMMARY, PLAN, TEST, CHECKPOINTS = "summary.json", "plan.json", "test.json", "checkpoints"
RATE = "rate.json"


class RetrainingFolder:
    """One retraining on disk: its plan, checkpoints while in progress, then models and summary."""

    def __init__(self, path: str | Path) -> None:
        """Point at a folder without touching it."""
        self.path = Path(path)

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds a finished retraining."""
        return (self.path / SUMMARY).is_file()

    @property
    def has_begun(self) -> bool:
        """Whether the folder holds more than a plan: something that was trained, or is not ours."""
        return self.path.is_dir() and any(each.name != PLAN for each in self.path.iterdir())

    def summary(self) -> RetrainingSummary:
        """What came out. Raises StoreError where it is not finished, or damaged."""
        found = read(self.path / SUMMARY, RetrainingSummary)
        if not found.seeds:
            raise StoreError(f"{self.path / SUMMARY} is damaged: seeds must hold one, got none")
        return _renamed(found)

    def save_summary(self, summary: RetrainingSummary) -> None:
        """Write what came out; the checkpoints are removed."""
        write_json(self.path / SUMMARY, summary)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def plan(self) -> RetrainingPlan | None:
        """What is retrained here; None where nothing was begun."""
        file = self.path / PLAN
        return read(file, RetrainingPlan) if file.is_file() else None

    def save_plan(self, plan: RetrainingPlan) -> None:
        """Write what is retrained here, before it begins."""
        write_json(self.path / PLAN, plan)

    def found_rate(self) -> FoundRate | None:
        """The learning rate that was found for this plan; None where there is none yet."""
        file = self.path / RATE
        return read(file, FoundRate) if file.is_file() else None

    def save_found_rate(self, found: FoundRate) -> None:
        """Write the learning rate, so that an interrupted retraining goes on with it."""
        write_json(self.path / RATE, found)

    @property
    def checkpoints(self) -> Path:
        """Where the states of unfinished trainings are kept."""
        return self.path / CHECKPOINTS

    def seed_folder(self, seed: int) -> Path:
        """Where one seed's model is saved."""
        return self.path / f"seed-{seed}"

    def seed_at(self, folder: Path) -> int | None:
        """Which seed's model lies in a folder; None where that is none of this retraining."""
        seeds = self.summary().seeds if self.is_finished else ()
        return next((seed for seed in seeds if self.seed_folder(seed) == folder), None)

    @property
    def first_model(self) -> Path:
        """The folder of the first seed's model."""
        return self.seed_folder(self.summary().seeds[0])


def _renamed(summary: RetrainingSummary) -> RetrainingSummary:
    names = summary.test
    runs = (
        replace(one, history=tuple(renamed_entry(entry, names) for entry in one.history))
        for one in summary.runs
    )
    return replace(summary, validation=renamed(summary.validation, names), runs=tuple(runs))


def read_metrics(checkpoint: Path) -> Mapping[str, float] | None:
    """The test metrics that were noted beside a checkpoint; None where there are none yet."""
    file = checkpoint / TEST
    return read(file, dict[str, float]) if file.is_file() else None


def write_metrics(checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Note the test metrics beside a checkpoint, so that the test split is read once."""
    write_json(checkpoint / TEST, metrics)
