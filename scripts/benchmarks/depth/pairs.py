"""Which blocks to drop together: by each alone, by pairs as well, or measured again step by step.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.depth.pairs    # 20 minutes

ResNet-56 on CIFAR-10 and MiniLM-L6 on SST-2, no training. The distance of the outputs (KL
divergence, training samples) is measured with every block dropped alone, with every two of one
stream dropped together, and with one more at a time (greedy: all that are left are tried again).
From these, each rule chooses as many blocks as are wanted; what it chose is built, repaired like a
trial, and measured on other training samples. The rank correlation is over random choices of as
many blocks. Rows: `results/depth/pairs.csv`; table: `pairs.md`.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch

from autoprune.architecture import Architecture
from autoprune.pruning import sensitivity
from autoprune.pruning.build import build
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import obs_scores, reestimate_batchnorm
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from autoprune.tasks import Task, load_dense
from autoprune.training.batches import sample
from examples.cifar10 import Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.depth.__main__ import OUT
from scripts.benchmarks.encoders.__main__ import CASES
from scripts.benchmarks.harness import Rows

KEY = ["model", "dropped", "rule"]
MODELS: dict[str, tuple[Callable[[], Task], tuple[int, ...]]] = {
    "ResNet-56": (Cifar10ResNet56, (4, 8, 14)),
    "MiniLM-L6": (CASES["text"].task, (2, 4, 6)),
}
RANDOM = 12  # choices of each size
READ = """Where half of the blocks go, what each does alone says nothing of many together (rank
correlations of -0.20 and -0.03), and measuring again after each is best. So a search's
sensitivities follow the order of dropping one after another: [order.md](order.md)."""
SHOWN = {
    "model": ("model", ""),
    "blocks": ("blocks", ""),
    "dropped": ("dropped", ""),
    "rule": ("chosen by", ""),
    "divergence": ("KL divergence", ".3f"),
    "correlation": ("rank correlation", ".2f"),
    "seconds": ("seconds of measuring", ".0f"),
}


class Bench:
    """A model whose blocks are dropped, and the distance of its outputs then."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dense = load_dense(task).eval()
        self.graph = prunable(self.dense, task.example_input())
        batches = sample(task, 0, samples=512)
        self.statistics = sample(task, 1, samples=128)
        self.calibration = calibrate(self.dense, batches, forward=task.loss)
        self.scores = obs_scores(self.dense, self.graph, self.calibration)
        self.blocks = [block.name for block in self.graph.blocks]
        outputs = task.outputs
        self.near = sensitivity.divergence(self.dense, sample(task, 0, samples=96), forward=outputs)
        self.other = sensitivity.divergence(
            self.dense, sample(task, 7, samples=512), forward=outputs
        )
        self.seconds = 0.0

    def distance(self, dropped: Iterable[str], score: sensitivity.Score) -> float:
        began = time.perf_counter()
        small = build(
            self.dense,
            self.graph,
            Architecture(dropped=list(dropped)),
            scores=self.scores,
            calibration=self.calibration,
            predict_statistics=False,
        ).model
        with torch.no_grad():
            reestimate_batchnorm(small, self.statistics, forward=self.task.loss)
        found = score(small)
        self.seconds += time.perf_counter() - began
        return found


Predicted = Callable[[frozenset[str]], float]


def added(alone: dict[str, float], pairs: dict[frozenset[str], float]) -> Predicted:
    """The blocks' distances, and what pairs of them have beyond the sum of both."""

    def predicted(chosen: frozenset[str]) -> float:
        both = map(frozenset, itertools.combinations(sorted(chosen), 2))
        return sum(alone[b] for b in chosen) + sum(pairs.get(two, 0.0) for two in both)

    return predicted


def least(blocks: list[str], count: int, predicted: Predicted) -> frozenset[str]:
    """The best choice that exchanges of two blocks lead to, from those least alone."""
    found = frozenset(sorted(blocks, key=lambda b: predicted(frozenset([b])))[:count])
    while True:
        others = [found - {out} | {new} for out in found for new in blocks if new not in found]
        best = min(others, key=predicted, default=found)
        if predicted(best) >= predicted(found) - 1e-12:
            return found
        found = best


def greedy(bench: Bench, most: int) -> list[str]:
    """The order in which blocks go when all that are left are measured again after each."""
    order: list[str] = []
    while len(order) < most:
        left = [b for b in bench.blocks if b not in order]
        order.append(min(left, key=lambda b: bench.distance([*order, b], bench.near)))
    return order


def rules(bench: Bench, most: int) -> dict[str, tuple[Any, float]]:
    """What each rule predicts (greedy: its order), and the seconds of measuring it needs."""
    alone = {b: bench.distance([b], bench.near) for b in bench.blocks}
    taken, bench.seconds = bench.seconds, 0.0
    pairs, near = {}, {}
    for i, j in itertools.combinations(range(len(bench.blocks)), 2):
        a, b = bench.blocks[i], bench.blocks[j]
        pairs[frozenset([a, b])] = bench.distance([a, b], bench.near) - alone[a] - alone[b]
        if j == i + 1:
            near[frozenset([a, b])] = pairs[frozenset([a, b])]
    all_s, bench.seconds = bench.seconds, 0.0
    order = greedy(bench, most)
    return {
        "each alone": (added(alone, {}), taken),
        "and neighbours": (added(alone, near), taken + all_s * len(near) / len(pairs)),
        "and all pairs": (added(alone, pairs), taken + all_s),
        "greedy": (order, bench.seconds),
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    rows, where = Rows(OUT / "pairs.csv", KEY), harness.circumstances()
    for name in options.models:
        make, sizes = MODELS[name]
        bench = Bench(make())
        known = rules(bench, max(sizes))
        for count in sizes:
            rng = random.Random(count)
            sets = [frozenset(rng.sample(bench.blocks, count)) for _ in range(RANDOM)]
            true = [bench.distance(chosen, bench.other) for chosen in sets]
            for rule, (predicted, seconds) in known.items():
                if callable(predicted):
                    chosen = least(bench.blocks, count, predicted)
                    ranks = pd.DataFrame({"a": true, "b": map(predicted, sets)})
                    correlation = float(ranks.corr("spearman").iloc[0, 1])
                else:
                    chosen, correlation = frozenset(predicted[:count]), None
                found = {
                    **{"model": name, "blocks": len(bench.blocks), "dropped": count},
                    **{"rule": rule, "divergence": bench.distance(chosen, bench.other)},
                    **{"correlation": correlation, "seconds": seconds, **where},
                }
                print({column: found[column] for column in SHOWN}, flush=True)
                rows.put(found)
    held = rows.read()
    text = (
        "# Which blocks to drop together\n\nNo training; KL divergence of the outputs from the "
        f"dense model's, less is better. {harness.stamp(held)}\n\n"
        f"{harness.table(held, SHOWN)}\n\n{READ}\n"
    )
    write_text(OUT / "pairs.md", text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
