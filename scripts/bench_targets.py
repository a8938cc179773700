"""What it is worth to compute distillation targets once: training time of trials, with and without.

    AUTOPRUNE_DATA=... python scripts/bench_targets.py             # ResNet-20 on CIFAR-10
    python scripts/bench_targets.py --task digits --steps 20       # needs no data

One warm trial fills the cache; then trials of the same candidate take turns, with the shared cache
and without any, on the threads that are given. The ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from autoprune.candidate import Candidate, Recovery
from autoprune.cost.model import CostModel
from autoprune.cost.targets import device_name
from autoprune.graph import trace
from autoprune.store import write_text
from autoprune.tasks import load_dense, load_task
from autoprune.training import RecoveryRun, choose
from autoprune.training.target_cache import TargetCache

OUT = Path(__file__).parents[1] / "results" / "overhead" / "targets.md"
RATIOS = (0.2, 0.4, 0.6)  # of every group


def main() -> None:
    given = _arguments()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    task = load_task(given.task)
    dense = load_dense(task)
    graph = trace(dense, task.example_input(), ignored_layers=task.ignored_layers)
    costs = CostModel(graph)
    precision = choose(task, dense)
    epochs = given.steps / len(task.train_loader(0))  # type: ignore[arg-type]

    def seconds(candidate: Candidate, targets: TargetCache) -> float:
        run = RecoveryRun(
            task, dense, graph, candidate, epochs=epochs, seed=0, precision=precision,
            targets=targets,
        )  # fmt: skip
        run.advance(epochs)
        return run.times["train_s"]

    cache = TargetCache()
    lines = [
        f"# Distillation targets computed once: {given.task}",
        "",
        f"{given.steps} steps a trial, {given.pairs} pairs of trials in turns; "
        f"{device_name()}, {torch.get_num_threads()} threads, {precision}, "
        f"torch {version('torch')}. Seconds of training and their ratio: medians over the pairs.",
        "",
        "| MACs | anew | once | times as fast |",
        "|---:|---:|---:|---:|",
    ]
    for ratio in RATIOS:
        chosen = Candidate(
            dict.fromkeys(graph.sizes(), ratio), repair=False, recovery=Recovery(0.02, 0.5, 0.0)
        )
        kept = {name: round(size * (1.0 - ratio)) for name, size in graph.sizes().items()}
        share = costs.cost(kept).get("macs") / costs.dense.get("macs")
        seconds(chosen, cache)
        pairs = [
            (seconds(chosen, TargetCache(most_bytes=0)), seconds(chosen, cache))
            for _ in range(given.pairs)
        ]
        anew, once = (median(column) for column in zip(*pairs, strict=True))
        gain = median(other / one for other, one in pairs)
        lines.append(f"| {share:.0%} | {anew:.2f} s | {once:.2f} s | {gain:.2f} |")
        print(lines[-1], flush=True)
    write_text(given.out, "\n".join([*lines, ""]))
    print(f"wrote {given.out}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
