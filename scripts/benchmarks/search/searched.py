"""autoprune's public search, within the benchmark's compute."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from autoprune._search.preparing import context as search_context
from autoprune._search.run import run as search_run
from autoprune._search.state.progress import Snapshot
from autoprune.budget import Cost
from autoprune.config import RunConfig
from autoprune.record import TrialRecord
from autoprune.store import RECORDS
from scripts.benchmarks.search.setup import MAX_RATIO, MOST, RECIPES, Clock, Job, Setup, Tried

SEARCH = "search"


class ScreeningCost(KeyboardInterrupt):
    """The compute is spent: the search ends as on Ctrl-C, with every record on disk."""


class Watch:
    """Notes what had been spent when each trial ended, and ends the search at the budget."""

    def __init__(self, setup: Setup, budget: float, clock: Clock) -> None:
        self.ends: list[tuple[float, float]] = []
        self._setup, self._budget, self._clock = setup, budget, clock

    def update(self, snapshot: Snapshot) -> None:
        ended = snapshot.complete + snapshot.stopped + snapshot.failed
        if ended > len(self.ends):
            now = (self._setup.spent(), self._clock())
            self.ends += [now] * (ended - len(self.ends))
        if snapshot.phase == "search" and self.ends and self.ends[-1][0] >= self._budget:
            raise ScreeningCost


def autoprune(
    setup: Setup,
    seed: int,
    budget: float,
    *,
    importance: str = "obs",
    repair: bool = True,
    recipe: bool = False,
    lr: float | None = None,
    depth: bool = False,
    variables: str = "auto",
    screen: int | None = None,
    levels: Sequence[float] = (),
) -> list[Tried]:
    """The public search, told how many epochs it has, and cut off where its compute is spent.

    Channels alone, as all other methods, unless `depth` lets it drop residual blocks too. `recipe`
    searches learning rate and distillation; `lr` is another fixed rate than the job's.
    """
    clock, folder = Clock(), setup.folder / SEARCH
    shutil.rmtree(folder, ignore_errors=True)
    watch = Watch(setup, budget, clock)
    space = {"importance": importance, "repair": repair, "depth": depth}
    options: dict[str, Any] = {
        "levels": [f"{level:.0%}" for level in levels],
        "variables": variables,
        **({} if screen is None else {"screen": screen}),
    }
    recovery = _recovery(setup.job, recipe=recipe, lr=lr)
    config = _config(setup, seed, budget, space, recovery, options)
    # One arithmetic for all methods: what the search would time is timed once for the benchmark.
    with (
        mock.patch.object(search_context, "training_precision", return_value=setup.precision),
        contextlib.suppress(ScreeningCost),
    ):
        search_run(config, setup.task, folder, progress=watch)
    ended = _ended(folder / RECORDS)
    return [
        _from_record(setup, record, *end) for record, end in zip(ended, watch.ends, strict=False)
    ]


def _recovery(job: Job, *, recipe: bool, lr: float | None) -> dict[str, Any]:
    """The recipe of the configuration: the job's, at another rate, or with ranges."""
    given: dict[str, Any] = asdict(job.recovery)
    recovery = {name: value for name, value in given.items() if value is not None}
    if lr is not None:
        recovery["lr"] = lr
    if recipe:
        recovery["lr"] = {"min": RECIPES["lr"][0], "max": RECIPES["lr"][1], "log": True}
        recovery["distillation"] = dict(zip(("min", "max"), RECIPES["distillation"], strict=True))
    return recovery


def _config(
    setup: Setup,
    seed: int,
    budget: float,
    space: Mapping[str, Any],
    recovery: Mapping[str, Any],
    options: Mapping[str, Any],
) -> RunConfig:
    job = setup.job
    trials = budget / setup.planned(1.0)
    return RunConfig.from_dict(
        {
            "task": job.reference,
            "budget": {"macs": f"{MOST:.0%}"},
            "device": {"runtime": "torch"},
            "train_on": "cpu",
            "space": {
                "ratios": {"max": MAX_RATIO},
                "round_to": 1,
                **space,
                "schedule": {"kind": "one_shot"},
                "recovery": recovery,
            },
            "search": {
                "trials": 10 * round(trials),
                "patience": 0,  # equal compute: nothing ends early, nothing is on top
                "baselines": {"uniform": 0, "random": 0},
                "total_epochs": trials * setup.epochs,
                "epochs": setup.epochs,
                "rungs": job.rungs,
                "concurrent": 1,
                "seed": seed,
                **options,
            },
        }
    )


def _ended(file: Path) -> list[TrialRecord]:
    """The records of trained trials in the order in which they ended."""
    found: dict[int, TrialRecord] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record = TrialRecord.from_dict(json.loads(line))
        if record.state != "infeasible":
            found.setdefault(record.number, record)
    return list(found.values())


def _from_record(setup: Setup, record: TrialRecord, spent: float, wall_s: float) -> Tried:
    cost = record.predicted or Cost()
    return Tried(
        number=record.number,
        state=record.state,
        origin=record.origin,
        candidate=record.candidate,
        share=cost.get("macs") / setup.dense_macs,
        params=int(cost.get("params")),
        epochs=record.epochs,
        accuracy=record.metrics.get("accuracy"),
        spent=spent,
        wall_s=wall_s,
        train_s=record.times.get("train_s", 0.0),
        model=setup.folder / SEARCH / record.artifact if record.artifact else None,
    )
