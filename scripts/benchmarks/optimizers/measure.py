"""How models with attention recover from pruning with SGD and with AdamW, clipped or not.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.optimizers.measure --cache FOLDER

Two trained models (`models.py`), each pruned uniformly to about 50 and 25 % of its MACs with
repair, then recovered on the task's loss alone (no distillation) with each optimizer at three
learning rates without clipping, and with the gradient's norm clipped to 1 at the best of them and
at the default. Rows are appended to `results/optimizers/runs.csv` as they come and are not measured
again; the table is `results/optimizers/README.md`.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from autoprune.architecture import Architecture
from autoprune.candidate import BY_OPTIMIZER, Candidate, Recovery, Selection
from autoprune.graph import PruningGraph, trace
from autoprune.space import kept_units
from autoprune.tasks import Task
from autoprune.training import RecoveryRun
from scripts.benchmarks.optimizers.models import FashionViT, Sst2

OUT = Path(__file__).parents[3] / "results" / "optimizers"
RATES = {"adamw": (0.0001, 0.0003, 0.001), "sgd": (0.003, 0.01, 0.03)}
STEPS = {"sst2": 100, "fashion_vit": 200}  # of 16 texts, of 64 images
SEED = 0
_KEY = ("task", "macs", "optimizer", "lr", "clip")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the dense weights")
    parser.add_argument("--tasks", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25], help="of the MACs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in given.tasks:
        for row in measured(name, given.cache, given.shares):
            print(row, flush=True)
            _append(row)


def measured(name: str, cache: Path, shares: Sequence[float]) -> Iterator[dict[str, Any]]:
    """The missing rows of one task."""
    task: Task = Sst2(batch_size=16) if name == "sst2" else FashionViT()
    dense = _dense(name, task, cache)
    graph = trace(dense, task.example_input())
    accuracy = task.evaluate(dense, "val")["accuracy"]
    epochs = STEPS[name] / len(task.train_loader(SEED))  # type: ignore[arg-type]
    for share in shares:
        architecture, macs = _uniform(graph, share)
        candidate = Candidate(architecture, Selection("obs"), recovery=Recovery(distillation=0.0))
        pruned = RecoveryRun(task, dense, graph, candidate, epochs=0.0, seed=SEED)
        before = pruned.evaluate("val")["accuracy"]
        small, left = pruned.result(), pruned.graph
        about = {"task": name, "macs": macs, "dense": accuracy, "pruned": before}

        def run(recovery: Recovery, small: Any = small, left: Any = left) -> RecoveryRun:
            candidate = Candidate(Architecture(), recovery=recovery)
            return RecoveryRun(task, small, left, candidate, epochs=epochs, seed=SEED)

        for optimizer, rates in RATES.items():
            made = {lr: {**about, "optimizer": optimizer, "lr": lr, "clip": 0.0} for lr in rates}
            found = {}
            for lr, row in made.items():
                full = _row(row, run)
                found[lr] = float(full["accuracy"])
                yield full
            best = max(found, key=lambda lr: found[lr])
            for lr in dict.fromkeys((best, BY_OPTIMIZER["lr"][optimizer])):
                yield _row({**made[lr], "clip": 1.0}, run)


def _row(about: Mapping[str, Any], make: Callable[[Recovery], RecoveryRun]) -> dict[str, Any]:
    known = [row for row in _rows() if all(row[key] == str(about[key]) for key in _KEY)]
    if known:
        return {**known[0]}
    start = time.process_time()
    run = make(
        Recovery(about["lr"], 0.0, optimizer=about["optimizer"], grad_clip=float(about["clip"]))
    )
    after = run.advance(run.epochs)["accuracy"]
    return {**about, "accuracy": after, "cpu_s": round(time.process_time() - start, 1)}


def _uniform(graph: PruningGraph, share: float) -> tuple[Architecture, float]:
    """One ratio for every group: the one that leaves the nearest share of the MACs; that share."""
    whole = _macs(graph, graph.sizes())
    found = []
    for ratio in (step / 100 for step in range(1, 96)):
        widths = {name: kept_units(size, ratio) for name, size in graph.sizes().items()}
        found.append((_macs(graph, widths) / whole, widths))
    left, widths = min(found, key=lambda each: abs(each[0] - share))
    return Architecture(widths), round(left, 3)


def _macs(graph: PruningGraph, widths: Mapping[str, int]) -> int:
    return sum(math.prod(dim.size(widths) for dim in op.macs) for op in graph.ops if op.macs)


def _dense(name: str, task: Task, cache: Path) -> torch.nn.Module:
    file = cache / f"{name}.safetensors"
    torch.manual_seed(SEED)
    model = task.build_model()
    if file.exists():
        model.load_state_dict(load_file(file))
    else:
        task.train_dense(model, SEED)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return model.eval()


def _rows() -> list[dict[str, str]]:
    file = OUT / "runs.csv"
    if not file.exists():
        return []
    with file.open() as lines:
        return list(csv.DictReader(lines))


def _append(row: dict[str, Any]) -> None:
    if any(all(known[key] == str(row[key]) for key in _KEY) for known in _rows()):
        return
    file = OUT / "runs.csv"
    new = not file.exists()
    with file.open("a") as lines:
        writer = csv.DictWriter(lines, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
