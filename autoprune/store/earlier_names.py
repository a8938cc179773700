"""Losses in files of earlier versions, by the names that they have now.

These called the validation loss `val_loss`, unless it was the task's metric, and the training loss
`loss`. Now the validation loss has the name that `evaluate` gives, and the other is `train_loss`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from autoprune.record import TrialRecord

T = TypeVar("T")
_LOSS, _OLD, _TRAINED = "loss", "val_loss", "train_loss"


def renamed(values: Mapping[str, T], evaluated: Collection[str]) -> dict[str, T]:
    """Metrics of a model; `evaluated` are the names that the task's `evaluate` gives.

    >>> renamed({"accuracy": 0.9, "val_loss": 0.3}, ["accuracy", "loss"])
    {'accuracy': 0.9, 'loss': 0.3}
    """
    names = {_OLD: _LOSS} if _is_old(values, evaluated) else {}
    return {names.get(name, name): value for name, value in values.items()}


def renamed_entry(entry: Mapping[str, float], evaluated: Collection[str]) -> dict[str, float]:
    """An entry of a training history, likewise.

    >>> renamed_entry({"epoch": 1.0, "val_loss": 0.3, "loss": 0.4}, ["accuracy", "loss"])
    {'epoch': 1.0, 'loss': 0.3, 'train_loss': 0.4}
    """
    names = {_OLD: _LOSS, _LOSS: _TRAINED} if _is_old(entry, evaluated) else {}
    names = names if _LOSS in evaluated else {_LOSS: _TRAINED}
    return {names.get(name, name): value for name, value in entry.items()}


def renamed_record(record: TrialRecord, evaluated: Collection[str]) -> TrialRecord:
    """A trial's record, likewise."""
    history = tuple(renamed_entry(entry, evaluated) for entry in record.history)
    return replace(record, metrics=renamed(record.metrics, evaluated), history=history)


def _is_old(values: Mapping[str, object], evaluated: Collection[str]) -> bool:
    return _OLD in values and _LOSS in evaluated and _OLD not in evaluated
