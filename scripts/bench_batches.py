"""How many prunings should take turns with the dense model: how well their ratios repeat.

    python scripts/bench_batches.py              # about ten minutes

48 prunings beside the dense model, in batches of 6, 12, 24 and 48, each pruning timed for as long;
three passes of each size in turn, every pass in another order. The figure is the standard deviation
of a ratio between the passes: of a single one, and without what a batch has in common.
Writes `results/bench/latency/batches.md`.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from bench_latency.families import FAMILIES
from torch import nn

from autoprune.cost.inputs import Inputs
from autoprune.cost.latency import measure_latency, measure_together
from autoprune.cost.targets import device_name
from autoprune.device.sampling import pruned, random_architectures
from autoprune.pruning.verification import prunable

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency" / "batches.md"
CASES = (("mobilenet", "onnxruntime"), ("vit", "onnxruntime"))
PRUNINGS, PASSES, SIZES, TIMED_MS = 48, 3, (6, 12, 24, 48), 250.0


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [["family", "runtime", "in a batch", "noise", "without its level", "seconds a pass"]]
    rows.append(["---"] * len(rows[0]))
    for family, runtime in CASES:
        for size, (noise, within, seconds) in bench(family, runtime).items():
            figures = [f"{noise:.1%}", f"{within:.1%}", f"{seconds:.0f}"]
            rows.append([family, runtime, str(size), *figures])
            print(rows[-1], flush=True)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    OUT.write_text(
        f"# Prunings that take turns with the dense model\n\n`python scripts/bench_batches.py`: "
        f"standard deviation of a measured ratio between {PASSES} passes over the same {PRUNINGS} "
        f"prunings, each timed for {TIMED_MS:.0f} ms (in a dense model's time).\n{device_name()}, "
        f"1 thread, Python {platform.python_version()}, torch {version('torch')}, onnxruntime "
        f"{version('onnxruntime')}; {date.today().isoformat()}.\n\n{table}\n",
        encoding="utf-8",
    )
    print(OUT.read_text(encoding="utf-8"))


def bench(family: str, runtime: str) -> dict[int, tuple[float, float, float]]:
    """By size of a batch: noise, noise within the batch, seconds for a pass."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].build().eval(), FAMILIES[family].example()
    graph = prunable(model, inputs)
    models = [pruned(model, graph, keep) for keep in random_architectures(graph, PRUNINGS, 5)]
    quick = measure_latency(model, inputs, runtime, warmup_s=0.05, repeats=10)
    repeats = int(np.clip(TIMED_MS / quick.median_ms, 5, 300))
    rng = np.random.default_rng(0)
    logs = {size: np.zeros((PASSES, PRUNINGS)) for size in SIZES}
    levels = {size: np.zeros((PASSES, PRUNINGS)) for size in SIZES}
    seconds = dict.fromkeys(SIZES, 0.0)
    for n in range(PASSES):
        for size in SIZES:
            began, order = time.monotonic(), rng.permutation(PRUNINGS)
            for start in range(0, PRUNINGS, size):
                places = order[start : start + size]
                chosen = [models[place] for place in places]
                logs[size][n, places] = _logs(model, chosen, inputs, runtime, repeats)
                levels[size][n, places] = start
            seconds[size] += (time.monotonic() - began) / PASSES
    return {
        size: (_noise(logs[size]), _noise(_levelled(logs[size], levels[size])), seconds[size])
        for size in SIZES
    }


def _logs(
    model: nn.Module, models: Sequence[nn.Module], inputs: Inputs, runtime: str, repeats: int
) -> list[float]:
    together = measure_together([model, *models], inputs, runtime, warmup_s=0.05, repeats=repeats)
    return np.log([latency.ratio for latency in together[1:]]).tolist()


def _levelled(logs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Without each batch's mean deviation from the passes' mean."""
    off = logs - logs.mean(0)
    found = logs.copy()
    for row, batch, values in zip(off, levels, found, strict=True):
        for level in np.unique(batch):
            members = batch == level
            values[members] -= row[members].mean()
    return found


def _noise(logs: np.ndarray) -> float:
    return float(np.sqrt(logs.var(0, ddof=1).mean()))


if __name__ == "__main__":
    main()
