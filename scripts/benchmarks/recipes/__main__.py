"""What each option of the training brings after a long one, everything else being equal.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.recipes keywords    # 1 min a row

Uniform widths at a share of the dense model's bytes, repaired, trained from the dense weights with
distillation, cosine schedule, and the learning rate that the length suggests. Each row changes what
its name says. `find_lr` is `retrain --find-lr`: four rates in short trainings, then the best one;
the rows `lr x ...` are what it chooses among, trained in full. Mean of validation accuracies, and
of test accuracies, read once for each model; paired differences to the plain training of the same
seed.
Rows: `results/recipes/rows.csv`; table: `README.md`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from autoprune._retraining.rates import FACTORS, find_rate
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.schedule import Schedule
from autoprune.store import write_text
from autoprune.training import RecoveryRun
from autoprune.training.optimizers import optimizer_for, rate_for_length
from scripts.benchmarks import harness
from scripts.benchmarks.equal_cost.bench import METHODS, TASKS, Bench
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "recipes"
KEY = ["task", "share", "epochs", "recipe", "seed"]
GRADUAL = Schedule("cubic", 0.0, 0.5, 4)
LR = "lr x "  # begins the name of a recipe with another learning rate
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema 0.99": {"ema": 0.99},
    "ema 0.999": {"ema": 0.999},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "mixup 0.2": {"mixup": 0.2},
    "features 1": {"features": 1.0},
    "features 10": {"features": 10.0},
    "features 50": {"features": 50.0},
    "no distillation": {"distillation": 0.0},
    "distillation 0.9": {"distillation": 0.9},
    "in steps": {},
    "in steps, rewarm": {"rewarm": True},
    "in steps, features 10": {"features": 10.0},
    **{f"{LR}{factor:g}": {} for factor in FACTORS if factor != 1.0},
    **{
        f"{LR}0.25, {more}": options
        for more, options in (
            ("in steps", {}),
            ("features 10", {"features": 10.0}),
            ("in steps, features 10", {"features": 10.0}),
        )
    },
    "find_lr": {},
}
SHOWN = {
    "task": ("task", ""),
    "share": ("bytes", ".0%"),
    "epochs": ("epochs", "g"),
    "recipe": ("changed", ""),
    "seeds": ("seeds", "d"),
    "val": ("validation", ".2%"),
    "test": ("test", ".2%"),
    "difference": ("test beside plain, points", ""),
    "lr": ("learning rate", ".3g"),
}


class Recipes:
    """One task's architecture, and its trainings."""

    def __init__(self, task: str, share: float, epochs: float) -> None:
        self.bench, self.epochs = Bench(task, "weight_bytes"), epochs
        self.architecture = self.bench.architecture(METHODS["uniform"], share)
        auto = optimizer_for(self.bench.task, self.bench.dense, self.bench.graph)
        short = Recovery(distillation=0.5).resolved(auto)
        self.plain = replace(short, lr=rate_for_length(short, 1.0, epochs))

    def candidate(self, name: str) -> Candidate:
        recovery = replace(self.plain, **RECIPES[name])
        if name.startswith(LR):
            assert self.plain.lr is not None
            factor = name.removeprefix(LR).partition(",")[0]
            recovery = replace(recovery, lr=float(factor) * self.plain.lr)
        return Candidate.planned(
            self.architecture,
            self.bench.graph.sizes(),
            selection=Selection("obs"),
            schedule=GRADUAL if "in steps" in name else None,
            recovery=recovery,
        )

    def run(self, candidate: Candidate, epochs: float, seed: int) -> RecoveryRun:
        bench = self.bench
        run = RecoveryRun(
            bench.task,
            bench.dense,
            bench.graph,
            candidate,
            epochs=epochs,
            seed=seed,
            calibration=bench.calibration,
            precision=bench.precision,
        )
        run.advance(epochs)
        return run

    def row(self, name: str, seed: int) -> dict[str, Any]:
        candidate = self.candidate(name)
        if name == "find_lr":

            def score(tried: Candidate, epochs: float) -> float:
                return self.run(tried, epochs, seed).metrics["accuracy"]

            found = find_rate(candidate, self.epochs, score)
            candidate = replace(candidate, recovery=replace(candidate.recovery, lr=found.lr))
        run = self.run(candidate, self.epochs, seed)
        return {
            "lr": candidate.recovery.lr,
            "val_accuracy": run.metrics["accuracy"],
            "test_accuracy": run.evaluate("test")["accuracy"],
            "seconds": run.times["train_s"],
        }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--share", type=float, default=0.12)
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows, where = Rows(OUT / "rows.csv", KEY), harness.circumstances()
    recipes = Recipes(given.task, given.share, given.epochs)
    for seed in given.seeds:
        for name in given.recipes:
            key = {
                **{"task": given.task, "share": given.share, "epochs": given.epochs},
                **{"recipe": name, "seed": seed},
            }
            if len(rows.find(**key)):
                continue
            found = {**key, **recipes.row(name, seed)}
            print(found, flush=True)
            rows.put({**found, **where})
            write_text(OUT / "README.md", page(rows.read()))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, with the mean and the range of paired differences to plain."""
    found = []
    for (task, share, epochs), group in rows.groupby(["task", "share", "epochs"], sort=False):
        plain = group[group.recipe == "plain"].set_index("seed").test_accuracy
        for recipe, members in group.groupby("recipe", sort=False):
            points = 100.0 * (members.set_index("seed").test_accuracy - plain).dropna()
            found.append(
                {
                    **{"task": task, "share": share, "epochs": epochs, "recipe": recipe},
                    **{"seeds": len(members), "val": members.val_accuracy.mean()},
                    **{"test": members.test_accuracy.mean(), "lr": members.lr.mean()},
                    "difference": _spread(points) if recipe != "plain" else "",
                }
            )
    return pd.DataFrame(found)


def _spread(points: pd.Series) -> str:
    if points.empty:
        return ""
    return f"{points.mean():+.2f} ({points.min():+.2f} to {points.max():+.2f})"


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    return (
        "# Options of the training\n\nUniform widths, repaired, trained in full; each row changes "
        "what it names. Test accuracy, mean over seeds; in brackets the least and the largest "
        "paired difference. `ema 0.99` and `ema 0.999` are equal: so short a training reaches "
        f"neither decay. {harness.stamp(rows)}\n\n{harness.table(summary(rows), SHOWN)}\n"
    )


if __name__ == "__main__":
    main()
