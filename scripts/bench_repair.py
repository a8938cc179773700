"""Accuracy right after pruning, no training: which units leave, and how the rest is mended.

ResNet-20 on CIFAR-10, the same ratio for every inner channel group, residual streams whole. Every
variant starts from the same dense weights and calibration images. What is chosen is chosen on
validation images; the test column is read, never used. Run it with

    OMP_NUM_THREADS=1 python scripts/bench_repair.py --data FOLDER --out results/bench/repair
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from autoprune.cost.analytic import count_cost
from autoprune.graph import trace
from autoprune.pruning import importance, surgery
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import predict_batchnorm, reestimate_batchnorm, repair
from autoprune.pruning.refit import record, refit
from autoprune.tasks import load_dense
from autoprune.tasks.cifar10 import Cifar10

SEED = 0
BATCH = 128
VARIANTS = (  # order of the units, how the rest is mended
    ("l2", "nothing"),
    ("l2", "batchnorm"),
    ("l2", "repair"),
    ("l2", "repair + batchnorm"),
    ("l2", "repair + refit"),
    ("group", "repair + batchnorm"),
    ("bn_scale", "repair + batchnorm"),
    ("taylor", "repair + batchnorm"),
    ("obs", "batchnorm"),
    ("obs", "repair"),
    ("obs", "repair + batchnorm"),
    ("obs", "repair + predicted batchnorm"),
    ("obs", "refit"),
    ("obs", "repair + refit"),
)


class Bench:
    """Task, dense model, graph and everything that is computed once."""

    def __init__(self, data: Path, samples: int, refit_samples: int) -> None:
        self.task = Cifar10(data=data)
        self.dense = load_dense(self.task, Path("results") / "cache").eval()
        self.graph = trace(self.dense, self.task.example_input())
        self.batches = list(itertools.islice(self.task.train_loader(SEED), samples // BATCH))
        self.refit_samples = refit_samples
        self.times = {}
        self.calibration = self._timed("calibrate", lambda: calibrate(self.dense, self.batches))
        self.reference = self._timed(
            "record", lambda: record(self.dense, self.batches, max_samples=refit_samples)
        )
        gradients = self._timed(
            "gradients",
            lambda: importance.accumulate_gradients(self.dense, self.task.loss, self.batches),
        )
        self.worth = {
            name: self._timed(
                f"order {name}",
                lambda name=name: importance.scores(
                    self.dense,
                    self.graph,
                    name,
                    calibration=self.calibration,
                    gradients=gradients if name == "taylor" else None,
                ),
            )
            for name in dict(VARIANTS)
        }
        self.macs = count_cost(self.dense, self.task.example_input()).macs

    def _timed(self, name, work):
        start = time.perf_counter()
        result = work()
        self.times[name] = time.perf_counter() - start
        return result

    def keep(self, order: str, ratio: float) -> dict[str, tuple[int, ...]]:
        inner = {g.name: ratio for g in self.graph.groups if g.name.startswith("layer")}
        return importance.keep_units(self.graph, inner, self.worth[order])

    def build(self, order: str, mending: str, ratio: float) -> torch.nn.Module:
        keep = self.keep(order, ratio)
        small = copy.deepcopy(self.dense)
        surgery.prune(small, self.graph, keep)
        for step in mending.split(" + "):
            MENDING[step](self, small, keep)
        return small


MENDING = {
    "nothing": lambda bench, small, keep: None,
    "batchnorm": lambda bench, small, keep: reestimate_batchnorm(small, bench.batches),
    "repair": lambda bench, small, keep: repair(
        small, bench.dense, bench.graph, keep, bench.calibration
    ),
    "predicted batchnorm": lambda bench, small, keep: predict_batchnorm(
        small, bench.dense, bench.graph, keep, bench.calibration
    ),
    "refit": lambda bench, small, keep: refit(
        small, bench.dense, bench.graph, keep, bench.reference
    ),
}


def accuracy(model: torch.nn.Module, loader, limit: int) -> float:
    right = seen = 0
    model.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for images, labels in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            right += int((model(images).argmax(1) == labels).sum())
            seen += len(labels)
            if seen >= limit:
                break
    return right / seen


def timed_build(bench: Bench, order: str, mending: str, ratio: float, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        bench.build(order, mending, ratio)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(bench: Bench, options: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    for ratio, (order, mending) in itertools.product(options.ratios, VARIANTS):
        small = bench.build(order, mending, ratio)
        share = count_cost(small, bench.task.example_input()).macs / bench.macs
        row = {
            "ratio": ratio,
            "macs_share": round(share, 4),
            "order": order,
            "mending": mending,
            "val_accuracy": accuracy(small, bench.task.val_loader(), options.val),
            "test_accuracy": accuracy(small, bench.task.test_loader(), options.test),
            "build_s": round(timed_build(bench, order, mending, ratio, options.repeats), 4),
        }
        print("  ".join(f"{value}" for value in row.values()), flush=True)
        rows.append(row)
    return rows


def calibration_memory(data: Path) -> None:
    """Peak memory of a process that only calibrates ResNet-56 (Linux: ru_maxrss in KiB)."""
    task = Cifar10(depth=56, data=data)
    dense = load_dense(task, Path("results") / "cache")
    batches = list(itertools.islice(task.train_loader(SEED), 8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    calibration = calibrate(dense, batches)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"ResNet-56, {calibration.samples} images: process peak {after:.2f} GiB "
        f"({before:.2f} GiB with model and data before), moments "
        f"{calibration.nbytes / 2**20:.0f} MiB, {seconds:.0f} s"
    )


def markdown(rows, bench: Bench, memory: str, options: argparse.Namespace) -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    samples = len(bench.batches) * BATCH
    lines = [
        "# Accuracy right after pruning, without any training",
        "",
        f"ResNet-20, CIFAR-10, uniform ratios, inner channels, {samples} calibration images "
        f"(training split, augmented; {bench.refit_samples} of them for `refit`). Validation: "
        f"{options.val} images that were not used in calibration (the public checkpoint has seen "
        f"them in its training); test: {options.test} images. Seed {SEED}.",
        "",
        f"Machine: {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), load "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        "`build` is the median wall-clock time from the dense model to the mended candidate.",
        "",
        "| MACs | order | mended by | validation | test | build (s) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['macs_share']:.1%} | {row['order']} | {row['mending']} | "
            f"{row['val_accuracy']:.1%} | {row['test_accuracy']:.1%} | {row['build_s']:.3f} |"
            for row in rows
        ),
        "",
        "Once per model: "
        + ", ".join(f"{name} {value:.2f} s" for name, value in bench.times.items())
        + ".",
        "",
        f"Memory: {memory}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/bench/repair"))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.52, 0.72])
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--refit-samples", type=int, default=512)
    parser.add_argument("--val", type=int, default=2000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="only measure calibration's memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        calibration_memory(options.data)
        return
    bench = Bench(options.data, options.samples, options.refit_samples)
    rows = measure(bench, options)
    command = [sys.executable, __file__, "--data", str(options.data), "--memory"]
    memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "repair.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "README.md").write_text(markdown(rows, bench, memory, options))


if __name__ == "__main__":
    main()
