"""ResNet-56 on CIFAR-10 beside published results: searched, retrained, tested once.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.resnet56 --cost latency_ms --speedups 5
    AUTOPRUNE_DATA=... python -m scripts.benchmarks.resnet56 --device cuda --trials 40

For each speed-up one `autoprune.search` with that limit on multiply-accumulates, or on the latency
in ONNX Runtime (one thread); later searches reuse the first one's sensitivities and device profile
(`from_run`). The member of the front with the best validation accuracy is retrained and tested
once for each seed. Without `--dense-epochs` it starts from the public checkpoint, which has seen
the validation images; with it the dense model is trained on the 45,000 training images alone.
Searches are resumed where they were interrupted; with other arguments they have another folder.
Rows that are there are kept: `results/resnet56/rows.csv`, table `README.md`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import autoprune
from autoprune.cost.latency import measure_together
from autoprune.store import RunFolder
from autoprune.tasks import load_dense, load_task
from scripts.benchmarks import harness
from scripts.benchmarks.harness import ROOT, Rows
from scripts.benchmarks.resnet56.table import KEY, OUT, write_page

TASK = ROOT / "examples" / "cifar10.py"
SPEEDUPS = {"macs": [2.11, 2.57, 4.1], "latency_ms": [3.0, 5.0, 8.0]}
BEST = "best"  # of the front, all of which is within the limit


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    rows, where = Rows(OUT / "rows.csv", KEY), harness.circumstances()
    speedups = given.speedups or SPEEDUPS[given.cost]
    first = run_folder(given, speedups[0])
    for place, speedup in enumerate(speedups):
        run = run_folder(given, speedup, speedups[0]) if place else first
        search(run, first if place else None, speedup, given)
        about = {
            **{"cost": given.cost, "wanted": speedup, "dense_epochs": given.dense_epochs or 0},
            **{"trials": given.trials, "search_epochs": given.search_epochs},
            **{"epochs": given.epochs},
        }
        for row in retrained(run, given):
            rows.put({**about, **row, **where})
            write_page(rows.read())


def arguments() -> Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--cost", choices=list(SPEEDUPS), default="macs")
    parser.add_argument("--speedups", nargs="+", type=float, help="default: those published")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--search-epochs", type=float, default=1.0, help="of a trial")
    parser.add_argument("--epochs", type=float, default=20.0, help="of the retraining")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dense-epochs", type=int, help="train the dense model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of training")
    parser.add_argument("--threads", type=int, default=2, help="of training; latencies have one")
    return parser.parse_args()


def run_folder(given: Namespace, speedup: float, first: float | None = None) -> Path:
    """Where a search and its retraining are: another one for other arguments.

    `first` is the speed-up of the search that it reuses, if any.
    """
    parts = [
        f"{given.cost}-{speedup:g}",
        f"dense-{given.dense_epochs or 'public'}",
        f"{given.trials}x{given.search_epochs:g}",
        f"retrained-{given.epochs:g}",
        given.device,
    ]
    after = f"-after-{first:g}" if first is not None else ""
    return OUT / "runs" / ("-".join(parts) + after)


def search(run: Path, earlier: Path | None, speedup: float, given: Namespace) -> None:
    """A finished run with the limit of `speedup`."""
    if run.is_dir():
        autoprune.resume(run)
        return
    dense = {"dense_epochs": given.dense_epochs} if given.dense_epochs else {}
    autoprune.search(
        f"{TASK}:Cifar10ResNet56",
        task_args=dense,
        budget={given.cost: f"{100.0 / speedup:.4g}%"},
        space="standard",
        trials=given.trials,
        epochs=given.search_epochs,
        rungs=0,
        concurrent=1,
        objectives=["accuracy", given.cost],
        device={"runtime": "onnxruntime", "threads": 1},
        train_on=given.device,
        output=run,
        **({"from_run": earlier} if earlier else {}),
    )


def retrained(run: Path, given: Namespace) -> list[dict[str, Any]]:
    """A row for each seed of the retrained model, with its speed-ups over the dense one."""
    done = autoprune.retrain(
        run,
        pick=BEST,
        epochs=given.epochs,
        seeds=given.seeds,
        distillation=0.9,
        on_entry=lambda seed, entry: print(seed, _rounded(entry), flush=True),
    )
    summary, folder = done.summary, RunFolder.open(run)
    task = load_task(folder.config.task, args=folder.config.task_args)
    dense, example = load_dense(task).eval(), task.example_input()
    records = folder.records()
    record = next(r for r in records if r.number == summary.number)
    small = autoprune.load(done.path / f"seed-{summary.seeds[0]}", task=task)
    whole = autoprune.count_cost(dense, example)
    measured = measure_together([dense, small], example, "onnxruntime")[1]
    shared = {
        "trial": summary.number,
        "origin": record.origin,
        "reused": sum(each.is_reused for each in records),
        "dropped": len(record.candidate.architecture.dropped),
        "macs_speedup": whole.get("macs") / autoprune.count_cost(small, example).get("macs"),
        "latency_speedup": 1.0 / measured.ratio,
        "noisy": measured.noisy,
        "lr": summary.candidate.recovery.lr,
        "dense_test": summary.dense.test["accuracy"],
    }
    return [{"seed": r.seed, "test": r.test["accuracy"], **shared} for r in summary.runs]


def _rounded(entry: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in entry.items()}


if __name__ == "__main__":
    main()
