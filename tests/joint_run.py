"""The folder of a finished search from two starting models, made without a search."""

from __future__ import annotations

from pathlib import Path

import small_run

from autoprune.store import RunFolder, StartingState

CONFIG = {
    "task": "small_run:Pair",
    "budget": {"macs": "80%"},
    "starting_models": {"large": {"width": 32}, "small": {"width": 8}},
}


def make(folder: Path, large: tuple[float, float], small: tuple[float, float]) -> RunFolder:
    """Trial 0 of each costs 42 and trial 1 costs 14 multiply-accumulates, with these accuracies."""
    whole = RunFolder.create(folder / "whole", {**CONFIG, "base": str(folder)}, {})
    for name, accuracies in (("large", large), ("small", small)):
        small_run.make(folder, whole.starting_model(name).path, accuracies)
    whole.save_starting(StartingState(({"large": 1, "small": 1}, {"large": 3, "small": 0})))
    return whole
