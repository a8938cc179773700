"""The long run: front members of each method, recovered for many epochs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from autoprune.candidate import Candidate
from autoprune.errors import TrainingError
from autoprune.pruning.compensate import calibrate
from autoprune.training import choose
from autoprune.training.batches import sample
from scripts.benchmarks.harness import Rows
from scripts.benchmarks.search.setup import Setup, arithmetic, named, recover
from scripts.benchmarks.search.table import Table, at_most

AT = (0.50, 0.35, 0.25)
_CALIBRATION = 1024
_KEY = ["task", "method", "seed", "level", "epochs"]


def rows(path: Path) -> Rows:
    return Rows(path, _KEY)


def run(
    setup: Setup,
    table: Table,
    path: Path,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    levels: Sequence[float],
    epochs: float,
    circumstances: Mapping[str, object],
    say: Callable[[str], None],
) -> None:
    """Recover what is not in the file `path` yet, each as it comes; tested once, at the end.

    The arithmetic is that of the task's rows in the file, or timed now: a run is long enough for
    another one to be worth it than in the search. All members of a seed are trained on the same
    batches.
    """
    done = rows(path)
    there = done.find(task=setup.job.task)
    precision = (
        choose(setup.task.task, setup.dense) if there.empty else named(there.iloc[0].precision)
    )
    setup = replace(setup, precision=precision)
    circumstances = {
        **circumstances,
        "dense": setup.weights_hash,
        "precision": arithmetic(precision),
    }
    for seed in seeds:
        for method in methods:
            for level in levels:
                key = (setup.job.task, method, seed, level, epochs)
                member = at_most(table.of(setup.job.task, method, seed), level)
                same = done.find(**dict(zip(_KEY, key, strict=True)))
                if member is None or member.candidate in set(same.get("candidate", [])):
                    continue
                recovered = _recovered(setup, member, epochs)
                row = {**dict(zip(_KEY, key, strict=True)), **recovered, **circumstances}
                done.put(row)
                say(f"{method}, seed {seed}, at {level:.0%}: test {row['test_accuracy']:.4f}")


def _recovered(setup: Setup, member: pd.Series, epochs: float) -> dict[str, object]:
    candidate = Candidate.from_dict(json.loads(member.candidate))
    keep = json.loads(member.keep) if isinstance(member.keep, str) else None
    seed = int(member.seed)
    calibration = None
    if candidate.selection.repair or candidate.selection.importance == "obs":
        batches = sample(setup.task, seed, samples=_CALIBRATION)
        calibration = calibrate(
            setup.dense, batches, max_samples=_CALIBRATION, seed=seed, forward=setup.task.loss
        )
    about = {"macs_share": member.macs_share, "candidate": member.candidate}
    options = {"seed": seed, "keep": keep, "calibration": calibration}
    try:
        run = recover(setup, candidate, epochs=epochs, **options)
    except TrainingError:
        return {**about, "val_accuracy": 0.0, "test_accuracy": 0.0}
    return {
        **about,
        "short_test_accuracy": member.test_accuracy,
        "val_accuracy": run.history[-1][setup.task.metric],
        "test_accuracy": run.evaluate("test")[setup.task.metric],
        "train_s": run.times["train_s"],
    }
