"""Losses in files of earlier versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_records import folder as folder
from small_records import record

from autoprune.store import DenseReport, RetrainingFolder, RetrainingSummary, RunFolder
from autoprune.store.earlier_names import renamed, renamed_entry
from autoprune.store.values import SeedReport, Spread

OLD = {"epoch": 1.0, "accuracy": 0.9, "val_loss": 0.3, "params": 9.0, "loss": 0.4, "lr": 0.1}
NEW = {"epoch": 1.0, "accuracy": 0.9, "loss": 0.3, "params": 9.0, "train_loss": 0.4, "lr": 0.1}


@pytest.mark.parametrize(
    ("evaluated", "entry", "expected"),
    [
        (["accuracy", "loss"], OLD, NEW),
        (["accuracy", "loss"], NEW, NEW),
        (["val_loss"], {"val_loss": 0.3, "loss": 0.4}, {"val_loss": 0.3, "train_loss": 0.4}),
        (["f1"], {"f1": 0.3, "loss": 0.4}, {"f1": 0.3, "train_loss": 0.4}),
        (["f1"], {"f1": 0.3, "train_loss": 0.4}, {"f1": 0.3, "train_loss": 0.4}),
        (["loss"], {"loss": 0.3, "train_loss": 0.4}, {"loss": 0.3, "train_loss": 0.4}),
    ],
)
def test_entries_have_the_names_of_today(evaluated, entry, expected) -> None:
    assert renamed_entry(entry, evaluated) == expected


def test_an_int8_models_own_loss_counts_and_not_that_of_its_float32_twin() -> None:
    mixed = {"accuracy": 0.9, "val_loss": 0.3, "loss": 0.35}
    assert renamed(mixed, ["accuracy", "loss"]) == {"accuracy": 0.9, "loss": 0.35}
    assert renamed({"val_loss": 0.3}, ["val_loss"]) == {"val_loss": 0.3}


def test_a_run_folder_of_an_earlier_version_is_read(folder: RunFolder) -> None:
    old = record(0, metrics={"accuracy": 0.9, "val_loss": 0.3}, history=(OLD,))
    folder.append(old)
    folder.save_smaller([replace(old, number=-1)])
    assert folder.records() == (old,)  # of no dense model: nobody knows what they were called
    folder.save_dense(DenseReport({"accuracy": 0.91, "loss": 0.2}))
    new = record(0, metrics={"accuracy": 0.9, "loss": 0.3}, history=(NEW,))
    assert folder.records() == (new,)
    assert folder.smaller() == (replace(new, number=-1),)


def test_a_retraining_of_an_earlier_version_is_read(tmp_path) -> None:
    test = {"accuracy": Spread(0.8), "loss": Spread(0.5)}
    own = {"accuracy": 0.8, "loss": 0.5}
    folder = RetrainingFolder(tmp_path)
    folder.save_summary(
        RetrainingSummary(
            *(0, record(0).candidate, 1.0, (0,), test, {"val_loss": Spread(0.3)}),
            runs=(SeedReport(0, own, 9.0, (OLD,)),),
        )
    )
    found = folder.summary()
    assert found.validation == {"loss": Spread(0.3)}
    assert found.runs[0].history == (NEW,)
