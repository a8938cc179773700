"""Which learning rate a recovery wants, by what was removed, how it was mended and how long it is.

    AUTOPRUNE_DATA=... python scripts/bench_lr.py     # three tasks at 25 % of the MACs, 15 minutes
    python scripts/bench_lr.py --tasks spoken_digits --cost 0.06 --epochs 20

The benchmark's short recovery, or one of `--epochs`, at four learning rates: the knapsack's and
uniform widths with units by obs and repair, uniform widths by l2 without repair. Validation
accuracy; the table is `results/bench/search/lr.md`, rows are appended as they come to `lr.csv`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from bench_search.handmade import uniform
from bench_search.scored import scored
from bench_search.setup import FULL, named, recover
from bench_search.text import frame

from autoprune._search.allocator import Allocator
from autoprune._search.seeding import recipe
from autoprune.cost.targets import device_name
from autoprune.store import write_text

OUT = Path(__file__).parents[1] / "results" / "bench" / "search"
RATES = (0.003, 0.01, 0.03, 0.1)
ONE = ["task", "cost", "epochs"]  # of one table
PRECISION = {"cifar10": named("bf16 channels last")}  # of its training; the others: bf16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(FULL), default=list(FULL))
    parser.add_argument("--cost", type=float, default=0.25, help="share of the MACs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=float, help="default: the benchmark's short recovery")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = OUT / "lr.csv"
    for task in given.tasks:
        for row in _rows(task, given.cost, given.seeds, given.epochs):
            old = pd.read_csv(file) if file.exists() else pd.DataFrame()
            both = pd.concat([old, pd.DataFrame([row])])
            both = both.drop_duplicates([*ONE, "made", "lr", "seed"], keep="last")
            write_text(file, both.to_csv(index=False))
            print(row, flush=True)
    (OUT / "lr.md").write_text(_table(pd.read_csv(file)), encoding="utf-8")


def _rows(
    task: str, cost: float, seeds: list[int], epochs: float | None
) -> Iterator[dict[str, object]]:
    ready = scored(task, seed=0)
    plan = ready.plan
    setup = replace(ready.setup, precision=PRECISION.get(task, named("bf16")))
    epochs = setup.epochs if epochs is None else epochs
    choices = {name: plan.space.choices(name, plan.sizes) for name in plan.sizes}
    knapsack = Allocator.of_widths(choices, ready.sensitivity(0).at, plan.load)
    same = plan.resized(recipe(plan.space, plan.sizes), uniform(setup, 0)(cost)[0])
    limit = cost * setup.dense_macs / plan.budget.limits[0].resolve(plan.dense)
    made = {
        "knapsack, repaired": plan.resized(same, knapsack.at(limit)),
        "uniform, repaired": same,
        "uniform, plain l2": replace(same, importance="l2", repair=False),
    }
    for seed in seeds:
        for name, candidate in made.items():
            for lr in RATES:
                run = recover(
                    setup,
                    replace(candidate, recovery=replace(candidate.recovery, lr=lr)),
                    epochs=epochs,
                    seed=seed,
                    calibration=ready.calibration,
                )
                accuracy = run.metrics[setup.task.metric]
                about = dict(zip(ONE, (task, cost, round(epochs, 3)), strict=True))
                about |= {"made": name, "lr": lr, "seed": seed}
                yield {**about, "MACs": plan.cost(candidate).get("macs"), "accuracy": accuracy}


def _table(rows: pd.DataFrame) -> str:
    lines = [
        "# Learning rates",
        "",
        "`python scripts/bench_lr.py`: validation accuracy in % after recovery with the peak "
        "learning rates on top, mean of seeds.",
        f"{device_name()}, Python {platform.python_version()}, torch {version('torch')}; "
        f"{date.today().isoformat()}.",
    ]
    for (task, cost, epochs), part in rows.groupby(ONE, sort=False):
        wide = part.pivot_table(index="made", columns="lr", values="accuracy", sort=False)
        seeds = part.seed.nunique()
        label = f"## {task}, {cost:.0%} of the MACs, {epochs:.3g} epochs, {seeds} seed(s)"
        lines += ["", label, "", frame(100.0 * wide.loc[part.made.unique()], 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
