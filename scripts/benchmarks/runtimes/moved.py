"""A latency profile moved to other runtimes and thread counts by ten measurements there.

    python -m scripts.benchmarks.runtimes.moved    # 6 min

A profile of a MobileNetV2 in ONNX Runtime on one thread, from 48 random prunings, is moved to each
other place by ten further ones that are measured there, and predicts 24 that no fit has seen.
Beside it: the profile as it is, of which only the dense model's latency is replaced, one that is
fitted to the ten alone, and what the model of latency reaches there at all: a fit to all 34,
cross-validated. Rows: `results/runtimes/moved.csv`; table: `moved.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from autoprune.architecture import Architecture
from autoprune.budget import Device
from autoprune.cost.sizes import Floats
from autoprune.cost.targets import RUNTIMES, device_name
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sample, Sampler, random_architectures
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES
from scripts.benchmarks.runtimes.__main__ import NETWORK, others

SOURCE = ("onnxruntime", 1)
PLACES = (("torch", 1), ("openvino", 1), ("ncnn", 1), ("onnxruntime", 2), ("openvino", 2))
FITTED, CHECKS, UNSEEN = 48, 10, 24
KEY = ["runtime", "threads", "set", "number"]
SHOWN = {
    "runtime": ("to", ""),
    "threads": ("threads", ""),
    "moved_error": ("moved: mean error", ".1%"),
    "moved_rank": ("rank correlation", ".3f"),
    "unmoved_error": ("not moved: mean error", ".1%"),
    "unmoved_rank": ("rank correlation", ".3f"),
    "alone_error": ("from the ten alone: mean error", ".1%"),
    "alone_rank": ("rank correlation", ".3f"),
    "most_error": ("from all 34, cross-validated: mean error", ".1%"),
    "most_rank": ("rank correlation", ".3f"),
}


class Bench:
    """The network, and the measurements of each place as rows in a file."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        family = FAMILIES[NETWORK]
        self.dense, self.example = family.build().eval(), family.example()
        self.graph = prunable(self.dense, self.example)
        self.file = Rows(RESULTS / "runtimes" / "moved.csv", KEY)

    def measure(self, runtime: str, threads: int, kind: str) -> None:
        """Measure one set of prunings at a place, unless the file has it."""
        if len(self.file.find(runtime=runtime, threads=threads, set=kind)):
            return
        sampler = Sampler(
            self.dense, self.graph, self.example, runtime=runtime, threads=threads, seed=0
        )
        found = sampler.measure_these(prunings(self.graph, kind))
        where = harness.circumstances([*harness.PACKAGES, *others(RUNTIMES[runtime].packages)])
        self.file.put(
            *(
                {
                    **where,
                    "runtime": runtime,
                    "threads": threads,
                    "set": kind,
                    "number": number,
                    "ratio": sample.ratio,
                    "dense_ms": found.dense_ms,
                    "p95_factor": found.p95_factor,
                    "seed": 0,
                }
                for number, sample in enumerate(found.samples)
            )
        )
        print(f"{runtime}, {threads} threads: {kind}", flush=True)


def prunings(graph: PruningGraph, kind: str) -> list[Architecture]:
    """The random prunings of a set: `fitted`, `checks` or `unseen`."""
    counts = {"fitted": FITTED, "checks": CHECKS, "unseen": UNSEEN}
    return random_architectures(graph, counts[kind], seed=list(counts).index(kind))


def samples_of(rows: pd.DataFrame, graph: PruningGraph, kind: str) -> list[Sample]:
    """The measured prunings of one set at one place; ratios are to the dense model there."""
    found = rows[rows.set == kind].sort_values("number")
    counts = [graph.counts(each) for each in prunings(graph, kind)]
    return [
        Sample(kept, ratio * dense_ms, ratio)
        for kept, ratio, dense_ms in zip(counts, found.ratio, found.dense_ms, strict=True)
    ]


def row(rows: pd.DataFrame, graph: PruningGraph, runtime: str, threads: int) -> dict[str, object]:
    """One place: the errors of the predictors on prunings that none of them has seen."""
    here, there = (
        rows[(rows.runtime == name) & (rows.threads == count)]
        for name, count in (SOURCE, (runtime, threads))
    )
    fitted = samples_of(here, graph, "fitted")
    checks, unseen = samples_of(there, graph, "checks"), samples_of(there, graph, "unseen")
    ms, dense_ms = float(here.dense_ms.iloc[0]), float(there.dense_ms.iloc[0])
    place = Device(device_name(), runtime, threads=threads)
    source = LatencyPredictor.from_samples(graph, fitted, device=place, dense_ms=ms)
    alone = LatencyPredictor.from_samples(graph, checks, device=place, dense_ms=dense_ms)
    slower = [replace(sample, ratio=sample.ratio * dense_ms / ms) for sample in checks]
    told = {
        "moved": (source.moved(slower, place, dense_ms / ms), dense_ms),
        "unmoved": (source, ms),
        "alone": (alone, dense_ms),
    }
    found: dict[str, object] = {"runtime": runtime, "threads": threads}
    for name, (predictor, scale) in told.items():
        counts = np.concatenate([predictor.features.row(sample.counts) for sample in unseen])
        error, rank = judged(predictor.predict_many(counts) / scale, unseen)
        found |= {f"{name}_error": error, f"{name}_rank": rank}
    every = LatencyPredictor.from_samples(
        graph, [*checks, *unseen], device=place, dense_ms=dense_ms
    )
    measured, predicted = zip(*every.held_out, strict=True)
    rank = float(spearmanr(predicted, measured).statistic)
    return {**found, "most_error": every.error, "most_rank": rank}


def judged(told: Floats, unseen: Sequence[Sample]) -> tuple[float, float]:
    """Mean absolute relative error and rank correlation of ratios to the dense model."""
    measured = np.array([sample.ratio for sample in unseen])
    error = float(np.mean(np.abs(told / measured - 1.0)))
    return error, float(spearmanr(told, measured).statistic)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--table", action="store_true", help="only the table, of rows that are there"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench()
    if not given.table:
        bench.measure(*SOURCE, "fitted")
        for place in PLACES:
            for kind in ("checks", "unseen"):
                bench.measure(*place, kind)
    rows = bench.file.read()
    table = pd.DataFrame([row(rows, bench.graph, *place) for place in PLACES])
    words = (
        "# A profile moved to another runtime or number of threads\n\n"
        f"{NETWORK}: from {FITTED} prunings in {SOURCE[0]} on {SOURCE[1]} thread, {CHECKS} at the "
        f"new place; errors on {UNSEEN} others there, relative to the dense model. The fits are of "
        f"commit {harness.commit()}, the measurements of:\n"
        f"{harness.stamp(rows)}\n\n{harness.table(table, SHOWN)}\n"
    )
    write_text(RESULTS / "runtimes" / "moved.md", words)
    print(words)


if __name__ == "__main__":
    main()
