"""What is left of a better repair after training: batch normalizations re-estimated, or refitting.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.repair.trained    # 10 minutes

The keyword net with uniform widths, repaired by least squares and trained with distillation at
several learning rates. Before the training either the statistics of batch normalizations are
estimated anew, as trials do it, or every layer is fitted on its inputs in the smaller model as well
(`prune_model(refit=...)`), on the same samples. Rows: `results/repair/trained.csv`; table:
`trained.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.graph.replica import replica
from autoprune.pruning.calibration import Calibration, calibrate
from autoprune.pruning.refit import record, refit
from autoprune.pruning.verification import prunable
from autoprune.space import kept_units
from autoprune.store import write_text
from autoprune.tasks import load_dense, load_task
from autoprune.tasks.base import Batch
from autoprune.tasks.on_batches import loss_of
from autoprune.training import RecoveryRun, choose
from autoprune.training.batches import sample
from autoprune.training.gradual import GradualPruner
from scripts.benchmarks import harness
from scripts.benchmarks.equal_cost.bench import TASKS
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "repair"
KEY = ["task", "ratio", "epochs", "lr", "repair", "seed"]
REPAIRS = ("batchnorm", "refit")
SHOWN = {
    "task": ("task", ""),
    "ratio": ("ratio", ".0%"),
    "epochs": ("epochs", "g"),
    "lr": ("learning rate", "g"),
    "repair": ("before training", ""),
    "seeds": ("seeds", "d"),
    "val_accuracy": ("validation", ".1%"),
    "test_accuracy": ("test", ".1%"),
}


def refitted(
    pruner: GradualPruner,
    stage: Architecture,
    units: Mapping[str, Sequence[int]],
    batches: Sequence[Batch],
    calibration: Calibration | None,
    **options: Any,
) -> None:
    """`GradualPruner.remove` of a one-shot removal, with refitting."""
    before, graph = replica(pruner.model), pruner.graph
    forward = partial(loss_of, pruner.task)
    reference = record(before, batches, forward=forward)
    pruner.cut(stage, units, calibration=calibration, **options)
    refit(pruner.model, before, graph, pruner.kept_indices, reference, forward=forward)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--task", choices=TASKS, default="keywords")
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--epochs", nargs="+", type=float, default=[0.0, 1.0, 5.0])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.002, 0.005, 0.02])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, where = Rows(OUT / "trained.csv", KEY), harness.circumstances()
    task = load_task(TASKS[given.task])
    dense = load_dense(task).eval()
    graph = prunable(dense, task.example_input())
    calibration = calibrate(dense, sample(task, 0, samples=1024), forward=task.loss)
    widths = {name: kept_units(size, given.ratio) for name, size in graph.sizes().items()}
    for epochs in given.epochs:
        for lr in given.rates if epochs else given.rates[:1]:
            candidate = Candidate(
                Architecture(widths), Selection("obs"), recovery=Recovery(lr, 0.5)
            )
            for seed in given.seeds:
                for how in REPAIRS:
                    own = patch.object(GradualPruner, "remove", refitted)
                    with own if how == "refit" else nullcontext():
                        run = RecoveryRun(
                            *(task, dense, graph, candidate),
                            epochs=epochs,
                            seed=seed,
                            calibration=calibration,
                            precision=choose(task, dense, "cpu"),
                        )
                        run.build()
                    while not run.finished:
                        run.advance(1.0)
                    found = {
                        **{"task": given.task, "ratio": given.ratio, "epochs": epochs, "lr": lr},
                        **{"repair": how, "seed": seed},
                        **{f"{s}_accuracy": run.evaluate(s)["accuracy"] for s in ("val", "test")},
                    }
                    print(found, flush=True)
                    rows.put({**found, **where})
    write_text(OUT / "trained.md", page(rows))


def page(rows: Rows) -> str:
    """The table: means over seeds."""
    held = rows.read()
    means = held.groupby(KEY[:-1], sort=False, as_index=False).agg(
        seeds=("seed", "size"),
        val_accuracy=("val_accuracy", "mean"),
        test_accuracy=("test_accuracy", "mean"),
    )
    return (
        "# Repair before training\n\nUniform widths, repaired by least squares, then the "
        "statistics of batch normalizations estimated anew (`batchnorm`) or every layer fitted "
        f"again (`refit`), then trained. {harness.stamp(held)}\n\n{harness.table(means, SHOWN)}\n"
    )


if __name__ == "__main__":
    main()
