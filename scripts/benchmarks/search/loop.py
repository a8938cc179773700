"""The loop that users of Ray Tune and Optuna write themselves: a plain one, and a competent one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from autoprune._search.trials.tuning import quiet, session, threads_for
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import TrainingError
from autoprune.space import kept_units
from scripts.benchmarks.search.handmade import calibrated, uniform
from scripts.benchmarks.search.setup import (
    MAX_RATIO,
    MOST,
    PLAIN,
    RECIPES,
    TOLD,
    Setup,
    Tried,
    fitted,
    levels,
    recover,
    store,
)

LOG = "plain.jsonl"


class PlainTrial(tune.Trainable):
    """What a user hands to Ray Tune: prune by the sampled ratios, train, report."""

    def setup(
        self,
        config: dict[str, Any],
        bench: Setup,
        seed: int,
        recipe: bool,
        competent: bool,
        began: float,
    ) -> None:
        torch.set_num_threads(threads_for(1))
        self._bench, self._seed, self._recipe, self._began = bench, seed, recipe, began
        bench.task.build_model()  # begins to count in this process
        self._calibration = calibrated(bench, seed) if competent else None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        bench = self._bench
        ratios = {name: self._config[f"ratio.{name}"] for name in bench.graph.sizes()}
        selection = Selection("obs") if self._calibration else PLAIN
        kept = within(bench, ratios) if self._calibration else kept_at(bench, ratios)
        candidate = bench.candidate(kept, selection=selection)
        if self._recipe:
            recovery = Recovery(self._config["lr"], self._config["distillation"], 0.0)
            candidate = bench.candidate(kept, recovery=recovery, selection=selection)
        row: dict[str, Any] = {"candidate": candidate.to_dict(), "state": "failed", "accuracy": 0.0}
        try:
            options = {"seed": self._seed, "calibration": self._calibration}
            run = recover(bench, candidate, epochs=bench.epochs, **options)
            row |= {"state": "complete", "accuracy": run.metrics["accuracy"]}
            number = len(list((bench.folder / "models").glob("[0-9]*")))
            row |= {"model": str(store(bench, run, number)), "epochs": run.epoch, **run.times}
        except TrainingError:
            pass  # a diverged model is reported with accuracy 0
        macs = bench.costs.cost(candidate.architecture).get("macs")
        row |= {"spent": bench.spent(), "wall_s": time.time() - self._began}
        with (bench.folder / LOG).open("a", encoding="utf-8") as file:
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


def kept_at(setup: Setup, ratios: Mapping[str, float]) -> dict[str, int]:
    """The units that are left of each group."""
    sizes = setup.graph.sizes()
    return {name: kept_units(size, ratios[name], 1) for name, size in sizes.items()}


def within(setup: Setup, ratios: Mapping[str, float]) -> dict[str, int]:
    """The same, all groups pruned further alike as far as the budget wants it."""
    kept = kept_at(setup, ratios)
    if setup.share(kept) <= MOST:
        return kept

    def further(share: float) -> dict[str, int]:
        return kept_at(setup, {n: r + share * (MAX_RATIO - r) for n, r in ratios.items()})

    return fitted(setup, further, MOST)


def uniform_points(setup: Setup, seed: int) -> list[dict[str, float]]:
    """The uniform ratios of the costs that rules are told, as Optuna's first trials."""
    rule, sizes = uniform(setup, seed), setup.graph.sizes()
    first = len([level for level in levels() if level in TOLD])
    return [
        {f"ratio.{name}": 1.0 - count / sizes[name] for name, count in rule(level)[0].items()}
        for level in levels()[:first]
    ]


def ray_optuna(
    setup: Setup, seed: int, budget: float, *, recipe: bool = False, competent: bool = False
) -> list[Tried]:
    """Ray Tune with its OptunaSearch and the default sampler for two objectives (TPE).

    As it comes, ten random trials first, every proposal trained: one over budget still counts for
    the hypervolume, up to dense cost. `competent`: uniform ratios at the costs that rules are told
    are tried first, proposals over budget are pruned further until they are within it, and all
    models get autoprune's order of units and repair, its calibration counted.
    """
    log = setup.folder / LOG
    log.unlink(missing_ok=True)
    float_in: Callable[..., Any] = optuna.distributions.FloatDistribution
    space = {f"ratio.{name}": float_in(0.0, MAX_RATIO) for name in setup.graph.sizes()}
    if recipe:
        space |= {"lr": float_in(*RECIPES["lr"], log=True)}
        space |= {"distillation": float_in(*RECIPES["distillation"])}
    options = {
        "bench": setup,
        "seed": seed,
        "recipe": recipe,
        "competent": competent,
        "began": time.time(),
    }
    with quiet(), mock.patch.dict(os.environ, RAY_AIR_NEW_OUTPUT="0"), session(1):
        searcher = OptunaSearch(
            space,
            metric=["accuracy", "macs"],
            mode=["max", "min"],
            points_to_evaluate=uniform_points(setup, seed) if competent else None,
            seed=seed,
        )
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
