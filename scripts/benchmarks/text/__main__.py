"""A text encoder searched for measured latency: MiniLM-L6 on SST-2, heads, FFN, width and depth.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.text --shares 0.5 0.25 --retrain 1

`autoprune.search` with its default space on 8,000 phrases, 50 steps a trial, limits on latency in
ONNX Runtime (one thread). A row for each search: how long preparing took, the best model within the
limit as measured, and how far it uses the limit up; with `--retrain` the same model trained for so
many epochs of all 67,349 phrases, and tested once. Rows: `results/text/text.csv`, table:
`README.md`. The dense encoder is fine-tuned at the first run and kept in AUTOPRUNE_CACHE.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import autoprune
from autoprune.cost.latency import measure_together
from autoprune.store import RunFolder, write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.optimizers.models import Sst2, TextBatches

OUT = RESULTS / "text"
KEY = ["share", "seed", "epochs"]
PHRASES, STEPS, BATCH = 8000, 50, 32
SHOWN = {
    "share": ("latency wanted", ".0%"),
    "trials": ("trials", ""),
    "preparing_min": ("preparing, min", ".1f"),
    "search_min": ("whole search, min", ".1f"),
    "within": ("within the limit as measured", ""),
    "best_val": ("best validation", ".1%"),
    "dense_val": ("dense", ".1%"),
    "best_share": ("its latency measured", ".1%"),
    "front_near": ("best use of the limit", ".1%"),
    "epochs": ("retrained, epochs", "g"),
    "test": ("test", ".1%"),
    "dense_test": ("dense", ".1%"),
    "retrained_share": ("latency measured", ".1%"),
}


class Sst2Short(Sst2):
    """The first 8,000 phrases to train on."""

    def train_loader(self, seed: int) -> TextBatches:
        texts, labels = self._split("train")
        return TextBatches(texts[:PHRASES], labels[:PHRASES], self.batch_size, seed)


class Watch:
    """Notes when the preparation ended."""

    def __init__(self) -> None:
        self.prepared_s: float | None = None

    def update(self, snapshot: Any) -> None:
        if snapshot.phase != "prepare" and self.prepared_s is None:
            self.prepared_s = snapshot.elapsed_s


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--retrain", type=float, default=0.0, help="epochs of the best model")
    parser.add_argument("--models", type=Path, help="only measure what a stopped run has left")
    parser.add_argument("--keep", type=Path, help="folder for the runs, resumed if there")
    options = parser.parse_args()
    if options.models is not None:
        write_text(OUT / "models.md", models(options.models))
        return
    rows = Rows(OUT / "text.csv", KEY)
    OUT.mkdir(parents=True, exist_ok=True)
    for share in options.shares:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                place = (options.keep or Path(folder)) / f"{share:g}-{seed}"
                found = {
                    "share": share,
                    "seed": seed,
                    "epochs": options.retrain,
                    "trials": options.trials,
                    **searched(place, share, seed, options.trials),
                    **(retrained(place, options.retrain, seed) if options.retrain else {}),
                    **harness.circumstances(),
                }
            print({name: found.get(name) for name in SHOWN}, flush=True)
            rows.put(found)
            write_text(OUT / "README.md", page(rows.read()))


def searched(place: Path, share: float, seed: int, trials: int) -> dict[str, Any]:
    """One search; the shares are of the dense model's latency, measured beside it."""
    watch, began, is_resumed = Watch(), time.monotonic(), place.is_dir()
    if is_resumed:
        result = autoprune.resume(place, trials=trials, task=Sst2Short(BATCH), progress=watch)
    else:
        result = autoprune.search(
            Sst2Short(BATCH),
            progress=watch,
            budget={"latency_ms": f"{100 * share:g}%"},
            device={"runtime": "onnxruntime", "threads": 1},
            trials=trials,
            epochs=STEPS / (PHRASES // BATCH),
            rungs=0,
            concurrent=1,
            seed=seed,
            output=place,
        )
    took = time.monotonic() - began
    members = result.front.members
    shares = {m.number: m.measured.confidence.ratio for m in members if m.measured}
    best = max(members, key=lambda m: m.metrics["accuracy"])
    return {
        "preparing_min": None if is_resumed else (watch.prepared_s or took) / 60.0,
        "search_min": None if is_resumed else took / 60.0,
        "within": len(shares),
        "best_val": best.metrics["accuracy"],
        "dense_val": RunFolder.open(place).dense().metrics["accuracy"],
        "best_share": shares.get(best.number),
        "front_near": max(shares.values(), default=0.0) / share,
    }


def models(place: Path) -> str:
    """The trained models of a run beside the dense one: accuracy, and latency measured in turns."""
    run, task = RunFolder.open(place), Sst2Short(BATCH)
    records = [record for record in run.records() if record.artifact]
    small = [autoprune.load(run.model_folder(record), task=task) for record in records]
    dense = task.build_model().eval()
    found = measure_together([dense, *small], task.example_input(), "onnxruntime")
    before = run.dense()
    table = pd.DataFrame(
        {
            "trial": record.number,
            "origin": record.origin,
            "accuracy": record.metrics["accuracy"],
            "blocks": len(record.candidate.architecture.dropped),
            "measured": latency.ratio,
            "noisy": str(latency.noisy),
        }
        for record, latency in zip(records, found[1:], strict=True)
    )
    shown = {
        "trial": ("trial", ""),
        "origin": ("proposed by", ""),
        "accuracy": ("validation", ".1%"),
        "blocks": ("parts dropped", ""),
        "measured": ("latency measured", ".1%"),
        "noisy": ("noisy", ""),
    }
    where = harness.stamp(pd.DataFrame([harness.circumstances()]))
    return (
        "# Models of a search that was stopped\n\nMiniLM-L6 on SST-2, 50 steps of 32 phrases each; "
        f"dense {before.metrics['accuracy']:.1%}, {found[0].median_ms:.2f} ms in ONNX Runtime on "
        f"one thread. {where}\n\n{harness.table(table, shown)}\n"
    )


def retrained(place: Path, epochs: float, seed: int) -> dict[str, Any]:
    """The model with the best metric, trained on all phrases and tested."""
    done = autoprune.retrain(place, pick="best", epochs=epochs, seeds=[seed], task=Sst2(BATCH))
    summary = done.summary
    return {
        "test": summary.test["accuracy"].mean,
        "dense_test": summary.dense.test["accuracy"],
        "retrained_share": summary.measured.confidence.ratio if summary.measured else None,
    }


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    order = rows.sort_values(["share", "seed"], ascending=[False, True])
    shown = {name: how for name, how in SHOWN.items() if name in order}
    return (
        "# A text encoder within a latency\n\nMiniLM-L6 on SST-2, ONNX Runtime on one thread, "
        f"batch 1. {harness.stamp(rows)}\n\n{harness.table(order, shown)}\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
