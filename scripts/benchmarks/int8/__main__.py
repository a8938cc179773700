"""Two reference networks of MLPerf Tiny as float32 and int8, dense and pruned.

    AUTOPRUNE_DATA=... OMP_NUM_THREADS=1 python -m scripts.benchmarks.int8    # 20 minutes

ResNet-8 on CIFAR-10 and the DS-CNN on spoken keywords, with their public weights: dense, and with a
uniform share of every group pruned, repaired and briefly trained. Ranges are calibrated on training
samples; how, and with how many bits, is compared on validation (`calibration.csv`). The test split
is read once for each file (`int8.csv`); all accuracies are those of ONNX Runtime. Rows that are
there are kept, so it can be stopped and run again; table: `README.md`.
"""

from __future__ import annotations

import itertools
from typing import get_args

import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.graph import trace
from autoprune.pruning.calibration import calibrate
from autoprune.quantization import compared, timed, twin_of
from autoprune.space import kept_units
from autoprune.store import QuantizationSettings, write_text
from autoprune.store.quantization import Method
from autoprune.tasks import load_dense
from autoprune.tasks.base import Task
from autoprune.training.batches import sample
from autoprune.training.recovery import RecoveryRun
from examples.cifar10 import Cifar10ResNet8
from examples.voice_commands import VoiceCommands
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "int8"
SEED = 0
NETWORKS = {"DS-CNN": VoiceCommands, "ResNet-8": Cifar10ResNet8}
RECOVERY = {"DS-CNN": Recovery(lr=0.005, distillation=0.5), "ResNet-8": Recovery(lr=0.01)}
METHODS = get_args(Method)
SHOWN = {
    "network": ("network", ""),
    "ratio": ("pruned", ".0%"),
    "epochs": ("epochs", "g"),
    "precision": ("precision", ""),
    "val_accuracy": ("validation", ".2%"),
    "test_accuracy": ("test", ".2%"),
    "file_bytes": ("bytes", ",.0f"),
    "ms": ("ms", ""),
    "speedup": ("speed-up", ".2f"),
}
CALIBRATION = {
    "network": ("network", ""),
    "method": ("range", ""),
    "weight_bits": ("weight bits", ".0f"),
    "val_accuracy": ("validation", ".2%"),
    "float_accuracy": ("float32", ".2%"),
}


def pruned(task: Task, dense: nn.Module, name: str, ratio: float, epochs: float) -> nn.Module:
    """Every group at the same ratio, repaired, then trained for a few epochs."""
    graph = trace(dense, task.example_input())
    widths = {group.name: kept_units(group.size, ratio) for group in graph.groups}
    candidate = Candidate(Architecture(widths), Selection("obs"), recovery=RECOVERY[name])
    batches = sample(task, SEED, samples=1024)
    calibration = calibrate(dense, batches, seed=SEED, forward=task.loss)
    run = RecoveryRun(
        task, dense, graph, candidate, epochs=epochs, seed=SEED, calibration=calibration
    )
    while not run.finished:
        print(name, ratio, run.advance(epochs / 4), flush=True)
    return run.result().eval()


def measure(name: str, variants: list[tuple[float, float]]) -> None:
    """Dense and pruned models of one network, in both precisions, timed in turns."""
    file = Rows(OUT / "int8.csv", ["network", "ratio", "epochs", "precision"])
    task = NETWORKS[name]()
    dense = load_dense(task).eval()
    models = [pruned(task, dense, name, *each) if each[0] else dense for each in variants]
    settings = QuantizationSettings(seed=SEED)
    twins = [twin_of(model, task, settings, 1) for model in models]
    reports = timed(twins, [compared(twin, task, settings, test=True) for twin in twins])
    for (ratio, epochs), report in zip(variants, reports, strict=True):
        for precision in ("float32", "int8"):
            each = getattr(report, precision)
            row = {
                "network": name,
                "ratio": ratio,
                "epochs": epochs,
                "precision": precision,
                "val_accuracy": each.validation["accuracy"],
                "test_accuracy": each.test["accuracy"],
                "file_bytes": each.file_bytes,
                "latency_ms": each.latency_ms,
                "speedup": 1.0 / each.measured.confidence.ratio,
                "noise": each.measured.note(""),
                "seed": SEED,
            }
            print(row, flush=True)
            file.put({**row, **harness.circumstances()})


def calibrations(name: str) -> None:
    """The dense network by method and bits, on validation."""
    file = Rows(OUT / "calibration.csv", ["network", "method", "weight_bits"])
    task = NETWORKS[name]()
    dense = load_dense(task).eval()
    for method, bits in itertools.product(METHODS, (7, 8)):
        if not file.find(network=name, method=method, weight_bits=bits).empty:
            continue
        settings = QuantizationSettings(
            method=method, weight_bits=bits, seed=SEED, dynamic_batch=True
        )
        report = compared(twin_of(dense, task, settings, 1), task, settings)
        row = {"network": name, "method": method, "weight_bits": bits, "seed": SEED}
        row["val_accuracy"] = report.int8.validation["accuracy"]
        row["float_accuracy"] = report.float32.validation["accuracy"]
        print(row, flush=True)
        file.put({**row, **harness.circumstances()})


def markdown() -> str:
    """Both tables, and what they were measured on."""
    rows = Rows(OUT / "int8.csv", []).read().sort_values(["network", "ratio", "precision"])
    choice = Rows(OUT / "calibration.csv", []).read()
    noisy = rows["noise"].notna()
    rows["ms"] = [
        f"{'~' if n else ''}{ms:.3f}" for n, ms in zip(noisy, rows.latency_ms, strict=True)
    ]
    rows.loc[noisy, "speedup"] = None
    about = " `~`: other programs used most of the cores meanwhile; no speed-up is given for these."
    return (
        "# int8 by post-training quantization\n\n"
        "Public weights of MLPerf Tiny; accuracies, file sizes and latencies (batch 1, one thread, "
        "alternating with the dense float32 model) of the written files in ONNX Runtime. `pruned` "
        "is the share of units pruned from every group; those models were repaired and trained for "
        f"the epochs given. Seed {SEED}, 512 training samples for calibration, 7-bit weights, "
        f"percentile ranges.{about if noisy.any() else ''}\n{harness.stamp(rows)}\n\n"
        f"{harness.table(rows, SHOWN)}\n\n"
        "ResNet-8's weights have seen its validation split. DS-CNN: 720 validation and 1,238 test "
        "clips of the official test set.\n\n"
        "## Ranges and bits\n\nThe dense networks on validation. This processor adds pairs of int8 "
        "products in 16 bits: 8-bit weights saturate. The ranges differ by three samples of either "
        "network.\n\n"
        f"{harness.table(choice, CALIBRATION)}\n"
    )


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.3])
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--only-table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in () if options.only_table else options.networks:
        measure(name, [(0.0, 0.0), *((ratio, options.epochs) for ratio in options.ratios)])
        calibrations(name)
    write_text(OUT / "README.md", markdown())


if __name__ == "__main__":
    main()
