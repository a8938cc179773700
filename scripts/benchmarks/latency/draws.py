"""Which prunings a latency profile should measure where a model has residual blocks.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.latency.draws --seeds 0 1 2    # 2 min a seed

Two profiles of ResNet-56 in ONNX Runtime for each seed, one from the draws of
`device.sampling.random_architectures`, one from those before: every second pruning dropped blocks,
with a probability of up to 0.7, and none at full width. Both predict prunings that they have not
seen, twelve each of widths alone, of blocks alone and of both. Rows: `results/latency/draws.csv`,
table: `draws.md`. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from autoprune.architecture import Architecture
from autoprune.device import sampling
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sampler, Until, random_architectures
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable
from autoprune.space import kept_units
from autoprune.store import write_text
from autoprune.tasks import load_dense
from examples.cifar10 import Cifar10ResNet56
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows

OUT = RESULTS / "latency"
KINDS = ("widths", "blocks", "both")
UNSEEN, PASSES, SECONDS = 12, 3, 48.0
SHOWN = {
    "draws": ("draws", ""),
    "seed": ("seed", ""),
    "samples": ("measured", ""),
    **{
        f"{kind}_{what}": (f"{kind}, {what}", ".1%") for kind in KINDS for what in ("error", "bias")
    },
    "small_error": ("below 35 % of dense, error", ".1%"),
}


def before(graph: PruningGraph, samples: int, seed: int) -> list[Architecture]:
    """The draws until commit 5fc0c01."""
    rng = np.random.default_rng(seed)
    levels = rng.permutation((np.arange(samples) + rng.random(samples)) / samples)
    found = []
    for number, level in enumerate(levels):
        widths = _widths(graph, level, 0.3, int(rng.choice([1, 4, 8])), rng)
        chance = 0.7 * rng.random() * (number % 2)
        found.append(Architecture(widths, _dropped(graph, chance, rng)))
    return found


def unseen(graph: PruningGraph, seed: int) -> dict[str, list[Architecture]]:
    """Prunings of each kind, from almost dense to almost nothing."""
    rng, found = np.random.default_rng(seed), {kind: [] for kind in KINDS}
    for number in range(UNSEEN):
        level = (number + rng.random()) / UNSEEN
        for kind, to, most in (("widths", 1.0, 0.0), ("blocks", 0.0, level), ("both", 0.6, 1.0)):
            widths = _widths(graph, to * level, 0.2 * to, 4, rng)
            chance = 0.95 * most * (rng.random() if kind == "both" else 1.0)
            found[kind].append(Architecture(widths, _dropped(graph, chance, rng)))
    return found


def _widths(
    graph: PruningGraph, level: float, spread: float, round_to: int, rng: np.random.Generator
) -> dict[str, int]:
    found = {}
    for group in graph.groups:
        ratio = float(np.clip(level + rng.uniform(-spread, spread), 0.0, 0.95))
        found[group.name] = kept_units(group.size, ratio, round_to)
    return found


def _dropped(graph: PruningGraph, chance: float, rng: np.random.Generator) -> list[str]:
    return [block.name for block in graph.blocks if rng.random() < chance]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, task = Rows(OUT / "draws.csv", ["draws", "seed"]), Cifar10ResNet56()
    model, example = load_dense(task).eval(), task.example_input()
    graph = prunable(model, example)
    kinds = unseen(graph, 7)
    every = [architecture for kind in KINDS for architecture in kinds[kind]]
    sampler = Sampler(model, graph, example, runtime="onnxruntime", threads=1, seed=0)
    passes = [[it.ratio for it in sampler.measure_these(every).samples] for _ in range(PASSES)]
    truth = np.median(passes, axis=0)
    for seed in given.seeds:
        for name, draws in (("before", before), ("now", random_architectures)):
            began = time.monotonic()
            with patch.object(sampling, "random_architectures", draws):
                fitted = LatencyPredictor.fit(
                    model,
                    graph,
                    example,
                    runtime="onnxruntime",
                    seed=seed,
                    until=Until(seconds=SECONDS),
                )
            counts = np.concatenate([fitted.features.row(graph.counts(it)) for it in every])
            off = fitted.predict_many(counts) / fitted.dense_ms / truth - 1.0
            found = {
                "draws": name,
                "seed": seed,
                "samples": len(fitted.samples),
                "seconds": time.monotonic() - began,
                **errors(off, kinds),
                "small_error": float(np.abs(off[truth < 0.35]).mean()),
            }
            print(found, flush=True)
            rows.put({**found, **harness.circumstances()})
    write_text(OUT / "draws.md", page(rows.read()))


def errors(off: np.ndarray, kinds: Mapping[str, Sequence[Architecture]]) -> dict[str, float]:
    """The mean of the absolute relative errors of each kind, and of the signed ones."""
    found, start = {}, 0
    for kind in KINDS:
        part = off[start : start + len(kinds[kind])]
        found[f"{kind}_error"], found[f"{kind}_bias"] = (
            float(np.abs(part).mean()),
            float(part.mean()),
        )
        start += len(part)
    return found


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    order = rows.sort_values(["draws", "seed"])
    return (
        "# Which prunings a latency profile measures\n\nResNet-56 in ONNX Runtime, one thread: "
        "error and bias of predicted latencies on 36 prunings not seen before, by what was "
        f"pruned. {harness.stamp(rows)}\n\n{harness.table(order, SHOWN)}\n\n"
        "`before`: every second pruning also dropped blocks, at a probability of up to 0.7, and "
        "none was at full width. `now`: a third each of widths, blocks and both.\n"
    )


if __name__ == "__main__":
    main()
