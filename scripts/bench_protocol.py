"""How well a measured ratio to the dense model repeats, with and without the yardstick.

    python scripts/bench_protocol.py             # about five minutes

Five prunings beside the dense model, ten times over, 0.4 s each. From
the same raw times: the ratio of medians over all calls, the mean over rounds as measured, and the
same at equal pace of the processor (`cost.timing.Rounds`). The figure is the standard deviation of
a ratio between the ten, so less is better; it says something on a machine that is shared.
Writes `results/bench/latency/protocol.md`.
"""

from __future__ import annotations

import platform
import statistics
import warnings
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from bench_latency.families import FAMILIES

from autoprune.cost.sampling import pruned, random_keeps
from autoprune.cost.targets import Protocol, device_name, find_target
from autoprune.cost.timing import Rounds, mean_ratio
from autoprune.pruning.one_shot import prunable

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency" / "protocol.md"
CASES = (
    ("resnet20", "torch"),
    ("mobilenet", "torch"),
    ("mobilenet", "onnxruntime"),
    ("vgg", "onnxruntime"),
    ("vit", "onnxruntime"),
)
PRUNINGS, TIMES, TIMED_MS = 5, 10, 400.0
WAYS = {
    "medians of all calls": lambda rounds: _medians(rounds),
    "rounds": lambda rounds: _means(replace(rounds, paces=[[1.0] * len(p) for p in rounds.paces])),
    "rounds at equal pace": lambda rounds: _means(rounds),
}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [["family", "runtime", "dense ms", *WAYS], ["---"] * (3 + len(WAYS))]
    squares = []
    for family, runtime in CASES:
        dense_ms, found = bench(family, runtime)
        squares.append([found[way] ** 2 for way in WAYS])
        rows.append([family, runtime, f"{dense_ms:.2f}", *(f"{found[way]:.1%}" for way in WAYS)])
        print(rows[-1], flush=True)
    whole = np.sqrt(np.mean(squares, 0))
    rows.append(["all (quadratic mean)", "", "", *(f"{value:.1%}" for value in whole)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    OUT.write_text(
        f"# Noise of a measured ratio to dense\n\n`python scripts/bench_protocol.py`: standard "
        f"deviation between {TIMES} measurements of the same {PRUNINGS} prunings.\n"
        f"{device_name()}, 1 thread, Python {platform.python_version()}, torch "
        f"{version('torch')}, onnxruntime {version('onnxruntime')}; {date.today().isoformat()}."
        f"\n\n{table}\n",
        encoding="utf-8",
    )
    print(OUT.read_text(encoding="utf-8"))


def bench(family: str, runtime: str) -> tuple[float, dict[str, float]]:
    """The dense model's time, and the noise of each way."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].build().eval(), FAMILIES[family].example()
    graph = prunable(model, inputs)
    models = [model, *(pruned(model, graph, keep) for keep in random_keeps(graph, PRUNINGS, 3))]
    target = find_target(runtime)
    first = target.time(models[:1], inputs, Protocol(1, 0.05, 20)).rounds
    dense_ms = statistics.median(first.times()[0])
    repeats = int(np.clip(TIMED_MS / dense_ms, 5, 300))
    found = [target.time(models, inputs, Protocol(1, 0.05, repeats)).rounds for _ in range(TIMES)]
    noise = {}
    for name, way in WAYS.items():
        logs = np.log([way(rounds) for rounds in found])
        noise[name] = float(np.sqrt(logs.var(0, ddof=1).mean()))
    return dense_ms, noise


def _means(rounds: Rounds) -> list[float]:
    return [mean_ratio(ratios)[0] for ratios in rounds.ratios()[1:]]


def _medians(rounds: Rounds) -> list[float]:
    dense, *rest = (statistics.median(values) for values in rounds.times())
    return [value / dense for value in rest]


if __name__ == "__main__":
    main()
