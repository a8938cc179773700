"""What scoring one proposal takes on one thread: build, repair, BatchNorm, divergence.

    AUTOPRUNE_DATA=... python scripts/bench_screening.py     # ResNet-20 on CIFAR-10, two minutes

As a search scores: repair from 1,024 calibration images, BatchNorm statistics from the moments, the
divergence of outputs on a slice of the validation images, in the arithmetic that is quickest here.
Random ratios, both orders of channels; orders and moments are computed once, before. Wall-clock and
processor time by proposal, medians and largest. Writes `results/bench/search/scoring.md`.
"""

from __future__ import annotations

import platform
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from autoprune._search.score import SLICE, RepairScore
from autoprune.candidate import Candidate
from autoprune.cost.model import CostModel
from autoprune.cost.targets import device_name
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.verification import prunable
from autoprune.tasks import load_dense
from autoprune.tasks.cifar10 import Cifar10
from autoprune.training.batches import sample
from autoprune.training.precision import choose

OUT = Path(__file__).parents[1] / "results" / "bench" / "search" / "scoring.md"
PROPOSALS, SEED, IMAGES = 40, 0, 1024


def main() -> None:
    torch.set_num_threads(1)
    task = Cifar10()
    dense = load_dense(task).eval()
    graph = prunable(dense, task.example_input())
    precision = choose(task, dense, "cpu")
    batches = sample(task, SEED, samples=IMAGES)
    calibration = calibrate(dense, batches, max_samples=IMAGES, seed=SEED, forward=task.loss)
    score = RepairScore(task, dense, graph, calibration, seed=SEED, precision=precision)
    rng, costs, sizes = np.random.default_rng(SEED), CostModel(graph), graph.sizes()
    for importance in ("l2", "obs"):  # once in a search
        score(Candidate(dict.fromkeys(sizes, 0.5), importance=importance))
    wall, processor, shares = [], [], []
    for place in range(PROPOSALS):
        ratios = {name: float(rng.uniform(0.0, 0.8)) for name in sizes}
        candidate = Candidate(ratios, importance=("l2", "obs")[place % 2])
        began, spent = time.perf_counter(), time.process_time()
        score(candidate)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
        kept = {name: max(1, round(size * (1 - ratios[name]))) for name, size in sizes.items()}
        shares.append(costs.cost(kept, ("macs",)).get("macs") / costs.dense.get("macs"))
    OUT.write_text(
        f"# Scoring a proposal\n\n`python scripts/bench_screening.py`: ResNet-20, CIFAR-10, "
        f"{len(graph.groups)} groups, {PROPOSALS} random proposals at {min(shares):.0%} to "
        f"{max(shares):.0%} of the multiply-accumulates, {SLICE} validation images, {precision}.\n"
        f"{device_name()}, 1 thread, Python {platform.python_version()}, torch {version('torch')}; "
        f"{date.today().isoformat()}.\n\n| | median | largest |\n|---|---:|---:|\n"
        f"| wall-clock s | {np.median(wall):.3f} | {max(wall):.3f} |\n"
        f"| processor s | {np.median(processor):.3f} | {max(processor):.3f} |\n",
        encoding="utf-8",
    )
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
