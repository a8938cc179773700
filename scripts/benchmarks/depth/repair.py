"""Accuracy right after blocks were dropped, by what is done with the rest; no training.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth.repair    # 15 minutes

ResNet-56 on CIFAR-10 at the architectures of `scripts.benchmarks.depth`, at one share of the dense
latency. The kept layers are repaired by least squares from the calibration where they lost inputs;
then either the statistics of batch normalizations are estimated anew, or every layer is fitted on
its inputs in the smaller model (`refit`), both on the same 512 training images. The test split is
read, never chosen on. Rows: `results/depth/repair.csv`; table: `repair.md`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.pruning.compensate import reestimate_batchnorm
from autoprune.pruning.refit import record, refit
from autoprune.store import write_text
from autoprune.training.batches import sample
from scripts.benchmarks import harness
from scripts.benchmarks.depth.__main__ import OUT, Bench
from scripts.benchmarks.harness import Rows

KEY = ["kind", "share", "repair", "seed"]
SAMPLES = 512
SHOWN = {
    "share": ("latency wanted", ".0%"),
    "kind": ("pruned", ""),
    "dropped": ("blocks dropped", ""),
    "repair": ("repaired by", ""),
    "val_accuracy": ("validation", ".1%"),
    "test_accuracy": ("test", ".1%"),
    "seconds": ("seconds", ".1f"),
}


def repaired(bench: Bench, architecture: Architecture, how: str, seed: int) -> nn.Module:
    """The architecture with dense weights, repaired in one of the two ways."""
    batches = sample(bench.task, seed, samples=SAMPLES)
    scores = importance.scores(bench.dense, bench.graph, "obs", calibration=bench.calibration)
    built = build(
        bench.dense,
        bench.graph,
        architecture,
        scores=scores,
        calibration=bench.calibration,
        predict_statistics=False,
    )
    if how == "refit":
        reference = record(bench.dense, batches, forward=bench.task.loss)
        kept = built.kept_indices
        refit(built.model, bench.dense, bench.graph, kept, reference, forward=bench.task.loss)
    else:
        with torch.no_grad():
            reestimate_batchnorm(built.model, batches, forward=bench.task.loss)
    return built.model


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3])
    parser.add_argument("--kinds", nargs="+", default=["blocks", "both"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--profile", type=Path, default=OUT / "device.json")
    options = parser.parse_args()
    rows, where = Rows(OUT / "repair.csv", KEY), harness.circumstances()
    bench = Bench(options.profile)
    for share in options.shares:
        for kind in options.kinds:
            architecture = bench.allocate(kind, share)
            for seed in options.seeds:
                for how in ("batchnorm", "refit"):
                    start = time.perf_counter()
                    model = repaired(bench, architecture, how, seed).eval()
                    seconds = time.perf_counter() - start
                    found = {
                        **{"kind": kind, "share": share, "repair": how, "seed": seed},
                        **{"dropped": len(architecture.dropped), "seconds": seconds},
                        "val_accuracy": bench.task.evaluate(model, "val")["accuracy"],
                        "test_accuracy": bench.task.evaluate(model, "test")["accuracy"],
                        **where,
                    }
                    print({name: found[name] for name in SHOWN}, flush=True)
                    rows.put(found)
    held = rows.read()
    text = (
        "# Accuracy right after blocks were dropped\n\nResNet-56 on CIFAR-10, no training; a row "
        f"for each seed. {harness.stamp(held)}\n\n{harness.table(held, SHOWN)}\n"
    )
    write_text(OUT / "repair.md", text)


if __name__ == "__main__":
    main()
