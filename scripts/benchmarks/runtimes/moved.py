"""A latency profile moved to other runtimes and thread counts by ten measurements there.

    python -m scripts.benchmarks.runtimes.moved    # 6 min

A profile of a MobileNetV2 in ONNX Runtime on one thread, from 48 random prunings, is moved to each
other place by ten further ones that are measured there, and predicts 24 that no fit has seen.
Beside it: the profile as it is, of which only the dense model's latency is replaced, and one that is
fitted to the ten alone. Rows: `results/runtimes/moved.csv`; table: `moved.md`.
"""

from __future__ import annotations

import torch

from autoprune.architecture import Architecture
from autoprune.cost.targets import RUNTIMES
from autoprune.device.sampling import Sampler, random_architectures
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable
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
