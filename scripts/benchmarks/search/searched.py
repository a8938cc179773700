"""The two searches: autoprune as users call it, and the loop that they would write themselves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from autoprune._search import context as search_context
from autoprune._search.progress import Snapshot
from autoprune._search.run import run as search_run
from autoprune._search.tuning import quiet, session, threads_for
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Recovery
from autoprune.config import RunConfig
from autoprune.errors import TrainingError
from autoprune.record import TrialRecord
from autoprune.space import kept_units
from autoprune.store import RECORDS
from scripts.benchmarks.search.setup import MAX_RATIO, MOST, Clock, Setup, Tried, recover, store

SEARCH, PLAIN = "search", "plain.jsonl"
RECIPES = {"lr": (0.005, 0.1), "distillation": (0.0, 0.9)}  # where the recipe is searched too


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
    depth: bool = False,
    variables: str = "ratios",
    screen: int | None = None,
    levels: Sequence[float] = (),
) -> list[Tried]:
    """The public search, told how many epochs it has, and cut off where its compute is spent.

    Channels alone, as all other methods, unless `depth` lets it drop residual blocks too.
    """
    clock, folder = Clock(), setup.folder / SEARCH
    shutil.rmtree(folder, ignore_errors=True)
    watch = Watch(setup, budget, clock)
    space = {"importance": importance, "repair": repair, "depth": depth}
    config = _config(setup, seed, budget, space, recipe=recipe)
    changes: dict[str, Any] = {
        "levels": [f"{level:.0%}" for level in levels],
        "variables": variables,
    }
    if screen is not None:
        changes["screen"] = screen
    config = config.model_copy(update={"search": config.search.model_copy(update=changes)})
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


def _config(
    setup: Setup, seed: int, budget: float, space: Mapping[str, Any], *, recipe: bool
) -> RunConfig:
    job = setup.job
    given: dict[str, Any] = asdict(job.recovery)
    recovery = {name: value for name, value in given.items() if value is not None}
    if recipe:
        recovery["lr"] = {"min": RECIPES["lr"][0], "max": RECIPES["lr"][1], "log": True}
        recovery["distillation"] = dict(zip(("min", "max"), RECIPES["distillation"], strict=True))
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


class PlainTrial(tune.Trainable):
    """What a user hands to Ray Tune: prune by the sampled ratios, train, report."""

    def setup(
        self, config: dict[str, Any], bench: Setup, seed: int, recipe: bool, began: float
    ) -> None:
        torch.set_num_threads(threads_for(1))
        self._bench, self._seed, self._recipe, self._began = bench, seed, recipe, began
        bench.task.build_model()  # begins to count in this process
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        bench = self._bench
        sizes = bench.graph.sizes()
        kept = {n: kept_units(size, self._config[f"ratio.{n}"], 1) for n, size in sizes.items()}
        candidate = bench.candidate(kept)
        if self._recipe:
            recovery = Recovery(self._config["lr"], self._config["distillation"], 0.0)
            candidate = bench.candidate(kept, recovery=recovery)
        row: dict[str, Any] = {"candidate": candidate.to_dict(), "state": "failed", "accuracy": 0.0}
        try:
            run = recover(bench, candidate, epochs=bench.epochs, seed=self._seed)
            row |= {"state": "complete", "accuracy": run.metrics["accuracy"]}
            number = len(list((bench.folder / "models").glob("[0-9]*")))
            row |= {"model": str(store(bench, run, number)), "epochs": run.epoch, **run.times}
        except TrainingError:
            pass  # a diverged model is reported with accuracy 0
        macs = bench.costs.cost(candidate.architecture).get("macs")
        row |= {"spent": bench.spent(), "wall_s": time.time() - self._began}
        with (bench.folder / PLAIN).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return {"accuracy": row["accuracy"], "macs": macs, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial is one step."""


class UntilSpent(tune.Stopper):
    """Ends the whole experiment at the budget."""

    def __init__(self, setup: Setup, budget: float) -> None:
        self._setup, self._budget = setup, budget

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._setup.spent() >= self._budget


def ray_optuna(setup: Setup, seed: int, budget: float, *, recipe: bool = False) -> list[Tried]:
    """Ray Tune with its OptunaSearch and nothing else: every proposal is trained as it comes.

    The sampler is the default one for two objectives (TPE, ten random trials first). A proposal
    over budget is trained like any other: it still counts for the hypervolume, up to dense cost.
    """
    log = setup.folder / PLAIN
    log.unlink(missing_ok=True)
    float_in: Callable[..., Any] = optuna.distributions.FloatDistribution
    space = {f"ratio.{name}": float_in(0.0, MAX_RATIO) for name in setup.graph.sizes()}
    if recipe:
        space |= {"lr": float_in(*RECIPES["lr"], log=True)}
        space |= {"distillation": float_in(*RECIPES["distillation"])}
    options = {"bench": setup, "seed": seed, "recipe": recipe, "began": time.time()}
    with quiet(), mock.patch.dict(os.environ, RAY_AIR_NEW_OUTPUT="0"), session(1):
        searcher = OptunaSearch(space, metric=["accuracy", "macs"], mode=["max", "min"], seed=seed)
        tuner = tune.Tuner(
            tune.with_parameters(PlainTrial, **options),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=100_000,
                max_concurrent_trials=1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="plain",
                storage_path=str((setup.folder / "tune").resolve()),
                stop=UntilSpent(setup, budget),
                verbose=0,
            ),
        )
        tuner.fit()
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [_from_row(setup, row, number) for number, row in enumerate(rows)]


def _from_row(setup: Setup, row: Mapping[str, Any], number: int) -> Tried:
    candidate = Candidate.from_dict(row["candidate"])
    cost = setup.costs.cost(candidate.architecture)
    return Tried(
        number=number,
        state=row["state"],
        origin="optuna",
        candidate=candidate,
        share=cost.get("macs") / setup.dense_macs,
        params=int(cost.get("params")),
        epochs=row.get("epochs", 0.0),
        accuracy=row["accuracy"],
        spent=row["spent"],
        wall_s=row["wall_s"],
        train_s=row.get("train_s", 0.0),
        model=Path(row["model"]) if "model" in row else None,
    )
