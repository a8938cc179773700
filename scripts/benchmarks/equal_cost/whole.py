"""A whole search as a method: the candidate that `autoprune.search` finds within a share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import autoprune
from autoprune.candidate import Candidate
from scripts.benchmarks.equal_cost.rules import MAX_RATIO
from scripts.benchmarks.harness import RESULTS, ROOT

RUNS = RESULTS / "equal_cost" / "runs"
TRIALS = 32  # of one epoch
SPACE: dict[str, Any] = {
    "ratios": {"max": MAX_RATIO},
    "depth": {"max": 1.0},
    "precision": ["float32", "int8"],
    "importance": "obs",
    "schedule": {"kind": ["one_shot", "cubic"], "end": [0.3, 0.5], "steps": 4},
    "recovery": {
        "lr": {"min": 0.001, "max": 0.1, "log": True},
        "distillation": [0.0, 0.5, 0.9],
        "regularizer": [0.0, 1.0],
        "features": [0.0, 10.0],
    },
}


def searched(task: str, cost: str, share: float, seed: int, dense_epochs: int) -> Candidate:
    """The best on validation of the front of a search within `share` of the dense model's cost.

    `task` is what `load_task` takes; its dense model is trained for `dense_epochs`, or with 0 the
    task's own. A search that was interrupted goes on; a finished one is read.
    """
    run = run_folder(task, cost, share, seed, dense_epochs)
    if run.is_dir():
        return autoprune.resume(run).pick("best").candidate
    result = autoprune.search(
        str(ROOT / task),
        task_args={"dense_epochs": dense_epochs} if dense_epochs else {},
        budget={cost: f"{100.0 * share:g}%"},
        objectives=["accuracy", cost],
        space=SPACE,
        device={"runtime": "onnxruntime", "threads": 1},
        train_on="cpu",
        trials=TRIALS,
        epochs=1.0,
        rungs=0,
        patience=0,
        concurrent=1,
        seed=seed,
        output=run,
    )
    return result.pick("best").candidate


def run_folder(task: str, cost: str, share: float, seed: int, dense_epochs: int) -> Path:
    """Where a search is: another one for other arguments."""
    trained = f"-{dense_epochs}" if dense_epochs else ""
    return RUNS / f"{task.rpartition(':')[2]}-{cost}-{share:g}-{seed}{trained}"
