"""Which learning rate a recovery needs, by what was removed, how it was repaired, and its length.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.search.lr  # 5 tasks at 25 % of MACs, 25 minutes
    python -m scripts.benchmarks.search.lr --tasks spoken_digits --cost 0.12 --epochs 20 --seeds 0 1
    python -m scripts.benchmarks.search.lr --tasks keywords --rates 0.001 0.003 0.01 0.03

Uniform widths of one cost, repaired, and by l2 as they are; rows of widths by an earlier allocator
stay in the table. Rows: `results/search/lr.csv`; table: `lr.md`.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.pruning.calibration import calibrate
from autoprune.store import write_text
from autoprune.training.batches import sample
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.search.handmade import uniform
from scripts.benchmarks.search.setup import FULL, OTHERS, Setup, named, prepare, recover
from scripts.benchmarks.search.text import frame

OUT = RESULTS / "search"
JOBS = {**FULL, **OTHERS}
RATES = (0.003, 0.01, 0.03, 0.1)
TABLE = ["task", "cost", "epochs"]
KEY = [*TABLE, "made", "lr", "seed"]
PRECISION = {"cifar10": "bf16 channels last"}  # of training; the others: bf16
CALIBRATION = 1024  # training samples of the moments


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--cost", type=float, default=0.25, help="share of the MACs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=float, help="default: the benchmark's short recovery")
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = Rows(OUT / "lr.csv", KEY)
    for task in given.tasks:
        with tempfile.TemporaryDirectory(prefix="bench-lr-") as folder:
            precision = named(PRECISION.get(task, "bf16"))
            setup = prepare(JOBS[task], Path(folder), precision=precision)
            for row in _rows(setup, given, given.epochs or setup.epochs):
                file.put({**row, **harness.circumstances()})
                print(row, flush=True)
    write_text(OUT / "lr.md", _table(file.read()))


def _rows(setup: Setup, given: Namespace, epochs: float) -> Iterator[dict[str, object]]:
    task = setup.task.task
    batches = sample(task, 0, samples=CALIBRATION)
    calibration = calibrate(setup.dense, batches, max_samples=CALIBRATION, forward=task.loss)
    for seed in given.seeds:
        for name, candidate in _candidates(setup, given.cost).items():
            for lr in given.rates:
                run = recover(
                    setup,
                    replace(candidate, recovery=Recovery(lr, setup.job.distillation, 0.0)),
                    epochs=epochs,
                    seed=seed,
                    calibration=calibration,
                )
                about = dict(
                    zip(TABLE, (setup.job.task, given.cost, round(epochs, 3)), strict=True)
                )
                accuracy = run.metrics[task.metric]
                yield {**about, "made": name, "lr": lr, "seed": seed, "accuracy": accuracy}


def _candidates(setup: Setup, cost: float) -> dict[str, Candidate]:
    """Both models of one cost."""
    widths = uniform(setup, 0)(cost)[0]
    return {
        "uniform, repaired": setup.candidate(widths, selection=Selection("obs", repair=True)),
        "uniform, plain l2": setup.candidate(widths),
    }


def _table(rows: pd.DataFrame) -> str:
    lines = [
        "# Learning rates",
        "",
        "Validation accuracy in % after recovery with the peak learning rates on top, mean of "
        "seeds.",
        harness.stamp(rows),
    ]
    for (task, cost, epochs), part in rows.groupby(TABLE, sort=False):
        wide = part.pivot_table(index="made", columns="lr", values="accuracy", sort=False)
        seeds = part.seed.nunique()
        label = f"## {task}, {cost:.0%} of the MACs, {epochs:.3g} epochs, {seeds} seed(s)"
        lines += ["", label, "", frame(100.0 * wide.loc[part.made.unique()], 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
