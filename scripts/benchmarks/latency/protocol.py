"""How well a measured ratio to the dense model repeats, and what each part of the protocol gives.

    python -m scripts.benchmarks.latency.protocol   # about six minutes

20 prunings beside the dense model, eight times over, 0.25 s each, every time copied anew. From the
same raw times: the ratio of medians over all calls; the mean over rounds as measured; the same at
equal pace of the processor with one of the dense model's turns in a round; and with all of them
(`cost.timing.Rounds`). The figure is the standard deviation of a ratio between the eight, and in
brackets that of what all ratios have in common: less is better. It says something on a machine
that is shared.
Rows: `results/latency/protocol.csv`; table: `protocol.md`.
"""

from __future__ import annotations

import statistics
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from autoprune.cost.targets import Protocol, find_target
from autoprune.cost.timing import Rounds, mean_ratio
from autoprune.device.sampling import pruned, random_architectures
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES

OUT = RESULTS / "latency"
CASES = (
    ("resnet20", "torch"),
    ("mobilenet", "torch"),
    ("mobilenet", "onnxruntime"),
    ("vgg", "onnxruntime"),
    ("vit", "onnxruntime"),
)
PRUNINGS, TIMES, TIMED_MS = 20, 8, 250.0
SHOWN = {
    "family": ("family", ""),
    "runtime": ("runtime", ""),
    "dense_ms": ("dense ms", ".2f"),
    "way": ("ratio of", ""),
    "noise": ("noise", ".1%"),
    "common": ("in common", ".1%"),
}
WAYS = {
    "medians of all calls": lambda rounds: _medians(rounds),
    "rounds": lambda rounds: _means(_unpaced(_one_turn(rounds))),
    "at equal pace": lambda rounds: _means(_one_turn(rounds)),
    "and several turns": lambda rounds: _means(rounds),
}


def main() -> None:
    harness.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    file = Rows(OUT / "protocol.csv", ["family", "runtime", "way"])
    for family, runtime in CASES:
        dense_ms, noise = bench(family, runtime)
        for way, (whole, level) in zip(WAYS, noise, strict=True):
            row = {"family": family, "runtime": runtime, "way": way, "dense_ms": dense_ms}
            row |= {"noise": whole, "common": level}
            file.put({**row, **harness.circumstances()})
            print(row, flush=True)
    rows = file.read()
    every = rows.groupby("way", sort=False)[["noise", "common"]].agg(
        lambda values: np.sqrt(np.square(values).mean())
    )
    every = every.reset_index().assign(family="all (quadratic mean)", runtime="")
    shown = harness.table(pd.concat([rows, every]), SHOWN)
    write_text(
        OUT / "protocol.md",
        f"# Noise of a measured ratio to dense\n\nStandard deviation between {TIMES} measurements "
        f"of the same {PRUNINGS} prunings, and of what all ratios of one measurement have in "
        f"common.\n{harness.stamp(rows)}\n\n{shown}\n",
    )
    print(shown)


def bench(family: str, runtime: str) -> tuple[float, np.ndarray]:
    """The dense model's time; the noise of each way, and that of its level (`ways x 2`)."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].build().eval(), FAMILIES[family].example()
    graph = prunable(model, inputs)
    models = [
        model,
        *(pruned(model, graph, each) for each in random_architectures(graph, PRUNINGS, 3)),
    ]
    target = find_target(runtime)
    first = target.time(models[:1], inputs, Protocol(1, 0.05, 20)).rounds
    dense_ms = statistics.median(first.times()[0])
    repeats = int(np.clip(TIMED_MS / dense_ms, 5, 300))
    found = [target.time(models, inputs, Protocol(1, 0.05, repeats)).rounds for _ in range(TIMES)]
    noise = []
    for way in WAYS.values():
        logs = np.log([way(rounds) for rounds in found])
        noise.append([np.sqrt(logs.var(0, ddof=1).mean()), logs.mean(1).std(ddof=1)])
    return dense_ms, np.array(noise)


def _one_turn(rounds: Rounds) -> Rounds:
    """As if the dense model had had its first turn of each round only."""
    rest = range(rounds.turns, len(rounds.ms[0]))
    ms, probe_s = (
        [[each[n] for n in (0, *rest)] for each in of] for of in (rounds.ms, rounds.probe_s)
    )
    return Rounds(ms, probe_s)


def _unpaced(rounds: Rounds) -> Rounds:
    return replace(rounds, probe_s=[[1.0] * len(each) for each in rounds.probe_s])


def _means(rounds: Rounds) -> list[float]:
    return [mean_ratio(ratios)[0] for ratios in rounds.ratios()[1:]]


def _medians(rounds: Rounds) -> list[float]:
    dense, *rest = (statistics.median(values) for values in rounds.times())
    return [value / dense for value in rest]


if __name__ == "__main__":
    main()
