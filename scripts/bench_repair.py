"""Accuracy right after pruning, no training: which units leave, and how the rest is mended.

ResNet-20 on CIFAR-10, the same ratio for every inner channel group, residual streams whole. Every
variant starts from the same dense weights and calibration images. What is chosen is chosen on
validation images; the test column is read, never used. Run it with (rows that
are in OUT/repair.csv already are kept, so it can be stopped and run again)

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
    ("l2", "batchnorm"),
    ("l2", "repair + batchnorm"),
    ("obs", "repair"),
    ("obs", "repair + batchnorm"),
    ("obs", "repair + predicted batchnorm"),
    ("obs", "repair + refit"),
    ("l2", "repair + refit"),
    ("obs", "refit"),
    ("obs", "batchnorm"),
    ("l2", "nothing"),
    ("l2", "repair"),
    ("group", "repair + batchnorm"),
    ("bn_scale", "repair + batchnorm"),
    ("taylor", "repair + batchnorm"),
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
        start = time.process_time()
        result = work()
        self.times[name] = time.process_time() - start
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


def build_seconds(bench: Bench, order: str, mending: str, ratio: float, repeats: int) -> float:
    """Median processor time of one thread: what else runs on the machine counts little."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        bench.build(order, mending, ratio)
        times.append(time.process_time() - start)
    return statistics.median(times)


def key(row) -> tuple[float, str, str]:
    return float(row["ratio"]), row["order"], row["mending"]


def measure(bench: Bench, options: argparse.Namespace) -> list[dict[str, str]]:
    """Every row that is not in the file yet, appended as soon as it is there."""
    path = options.out / "repair.csv"
    done = {}
    if path.exists():
        with path.open(newline="") as file:
            done = {key(row): row for row in csv.DictReader(file)}
    wanted = [(ratio, *variant) for ratio in options.ratios for variant in VARIANTS]
    for ratio, order, mending in [each for each in wanted if each not in done]:
        small = bench.build(order, mending, ratio)
        share = count_cost(small, bench.task.example_input()).macs / bench.macs
        row = {
            "ratio": str(ratio),
            "macs_share": f"{share:.4f}",
            "order": order,
            "mending": mending,
            "val_accuracy": f"{accuracy(small, bench.task.val_loader(), options.val):.4f}",
            "test_accuracy": f"{accuracy(small, bench.task.test_loader(), options.test):.4f}",
            "build_cpu_s": f"{build_seconds(bench, order, mending, ratio, options.repeats):.4f}",
        }
        print("  ".join(row.values()), flush=True)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            if new:
                writer.writeheader()
            writer.writerow(row)
        done[key(row)] = row
    return [done[each] for each in wanted]


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
        "`build` is the median processor time, one thread, from the dense model to the mended "
        "candidate.",
        "",
        "| MACs | order | mended by | validation | test | build (CPU s) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {float(row['macs_share']):.1%} | {row['order']} | {row['mending']} | "
            f"{float(row['val_accuracy']):.1%} | {float(row['test_accuracy']):.1%} | "
            f"{float(row['build_cpu_s']):.2f} |"
            for row in rows
        ),
        "",
        "Once per model (CPU s): "
        + ", ".join(f"{name} {value:.2f}" for name, value in bench.times.items())
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
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="only measure calibration's memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        calibration_memory(options.data)
        return
    bench = Bench(options.data, options.samples, options.refit_samples)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = measure(bench, options)
    command = [sys.executable, __file__, "--data", str(options.data), "--memory"]
    memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (options.out / "README.md").write_text(markdown(rows, bench, memory, options))


if __name__ == "__main__":
    main()
