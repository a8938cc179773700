"""Accuracy right after pruning, no training: which units are pruned, and how the rest is repaired.

    AUTOPRUNE_DATA=... OMP_NUM_THREADS=1 python -m scripts.benchmarks.repair    # half an hour

ResNet-20 on CIFAR-10, the same ratio for every inner channel group, residual streams whole. Every
variant starts from the same dense weights and calibration images. What is chosen is chosen on
validation images; the test column is read, never used. Rows that are in `results/repair/repair.csv`
already are kept, so it can be stopped and run again; table: `README.md`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import resource
import statistics
import subprocess
import sys
import time

import pandas as pd
import torch

from autoprune.cost.analytic import count_cost
from autoprune.graph import trace
from autoprune.pruning import importance, surgery
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import predict_batchnorm, reestimate_batchnorm, repair
from autoprune.pruning.refit import record, refit
from autoprune.space import kept_units
from autoprune.store import write_text
from autoprune.tasks import load_dense
from examples.cifar10 import Cifar10ResNet20, Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "repair"
NUMBERS = ["samples", "refit_samples", "val_images", "test_images"]
KEY = ["ratio", "order", "mending", *NUMBERS]
SHOWN = {
    "macs_share": ("MACs", ".1%"),
    "order": ("order", ""),
    "mending": ("corrected by", ""),
    "val_accuracy": ("validation", ".1%"),
    "test_accuracy": ("test", ".1%"),
    "build_cpu_s": ("build (CPU s)", ".2f"),
    "samples": ("calibration images", ",.0f"),
    "refit_samples": ("for refit", ",.0f"),
    "val_images": ("validation images", ",.0f"),
    "test_images": ("test images", ",.0f"),
}
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

    def __init__(self, samples: int, refit_samples: int) -> None:
        self.task = Cifar10ResNet20()
        self.dense = load_dense(self.task).eval()
        self.graph = trace(self.dense, self.task.example_input())
        self.batches = list(itertools.islice(self.task.train_loader(SEED), samples // BATCH))
        self.samples = len(self.batches) * BATCH
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
        widths = {n: kept_units(self.graph.group(n).size, r) for n, r in inner.items()}
        return importance.best_units(self.worth[order], widths)

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


def measure(bench: Bench, options: argparse.Namespace) -> pd.DataFrame:
    """Every row that is not in the file yet, appended as soon as it is there."""
    file = Rows(OUT / "repair.csv", KEY)
    numbers = (bench.samples, options.refit_samples, options.val, options.test)
    for ratio, (order, mending) in itertools.product(options.ratios, VARIANTS):
        about = dict(zip(KEY, (ratio, order, mending, *numbers), strict=True))
        if not file.find(**about).empty:
            continue
        small = bench.build(order, mending, ratio)
        row = {
            **about,
            "macs_share": count_cost(small, bench.task.example_input()).macs / bench.macs,
            "val_accuracy": accuracy(small, bench.task.val_loader(), options.val),
            "test_accuracy": accuracy(small, bench.task.test_loader(), options.test),
            "build_cpu_s": build_seconds(bench, order, mending, ratio, options.repeats),
            "seed": SEED,
        }
        print(row, flush=True)
        file.put({**row, **harness.circumstances()})
    return file.read()


def calibration_memory() -> None:
    """Peak memory of a process that only calibrates ResNet-56 (Linux: ru_maxrss in KiB)."""
    task = Cifar10ResNet56()
    dense = load_dense(task)
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


def markdown(rows: pd.DataFrame, bench: Bench, memory: str) -> str:
    """The table, and what it was measured on."""
    once = ", ".join(f"{name} {value:.2f}" for name, value in bench.times.items())
    return (
        "# Accuracy right after pruning, without any training\n\n"
        "ResNet-20, CIFAR-10, uniform ratios, inner channels. Calibration images are of the "
        "training split, augmented; validation images were not used in calibration (the public "
        f"checkpoint has seen them in its training). Seed {SEED}. "
        "`build` is the median processor time, one thread, from the dense model to the repaired "
        f"candidate.\n{harness.stamp(rows)}\n\n{harness.table(rows, SHOWN)}\n\n"
        f"Once per model (CPU s, {bench.samples:,} images): {once}.\n\nMemory: {memory}.\n"
    )


def main() -> None:
    parser = harness.parser(__doc__)
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
        calibration_memory()
        return
    bench = Bench(options.samples, options.refit_samples)
    rows = measure(bench, options)
    command = [sys.executable, "-m", "scripts.benchmarks.repair", "--memory"]
    memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    write_text(OUT / "README.md", markdown(rows, bench, memory))


if __name__ == "__main__":
    main()
