"""What it changes that a predicted latency is more than a sum over layers, and how much to allow.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.latency.powers    # 2 min per row

One profile of each network and runtime. The same measurements are fitted as a sum alone, and with
the powers of `device.fitting.powers` at several penalties. All predict prunings that they have not
seen, twelve each of widths alone, of blocks alone and of both, measured three times. Rows:
`results/latency/powers.csv`, table: `powers.md`. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import itertools
import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from autoprune.device import fitting
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sampler, Until
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from examples.cifar10 import CifarResNet
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.draws import KINDS, PASSES, SECONDS, errors, unseen
from scripts.benchmarks.latency.families import FAMILIES, Family

OUT = RESULTS / "latency"
PENALTIES = {"the sum alone": 1e6, "0.1": 1e-1, "0.01": 1e-2, "0.001": 1e-3, "0.0001": 1e-4}
NETWORKS = {"resnet56": Family(lambda: CifarResNet(56), (1, 3, 32, 32)), **FAMILIES}
SHOWN = {
    "network": ("network", ""),
    "runtime": ("runtime", ""),
    "penalty": ("penalty", ""),
    "error": ("error", ".1%"),
    "small_error": ("below 35 % of dense", ".1%"),
    **{
        f"{kind}_{what}": (f"{kind}, {what}", ".1%") for kind in KINDS for what in ("error", "bias")
    },
    "held_out": ("own estimate of error", ".1%"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "torch"])
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = Rows(OUT / "powers.csv", ["network", "runtime", "penalty"])
    if not given.only_table:
        for network, runtime in itertools.product(given.networks, given.runtimes):
            for found in bench(network, runtime):
                print({name: found[name] for name in SHOWN}, flush=True)
                rows.put({**found, **harness.circumstances()})
    write_text(OUT / "powers.md", page(rows.read()))


def bench(network: str, runtime: str) -> list[dict[str, object]]:
    """The errors of each penalty on one profile."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[network].build().eval(), NETWORKS[network].example()
    graph = prunable(model, inputs)
    profile = LatencyPredictor.fit(
        model, graph, inputs, runtime=runtime, until=Until(seconds=SECONDS)
    )
    kinds = unseen(graph, 7)
    every = [architecture for kind in KINDS for architecture in kinds[kind]]
    sampler = Sampler(model, graph, inputs, runtime=runtime, threads=1, seed=0)
    passes = [[it.ratio for it in sampler.measure_these(every).samples] for _ in range(PASSES)]
    truth = np.median(passes, axis=0)
    counts = np.concatenate([profile.features.row(graph.counts(it)) for it in every])
    found = []
    for name, penalty in PENALTIES.items():
        with patch.object(fitting, "_NEAR_ONE", penalty):
            fitted = LatencyPredictor.from_samples(
                graph, profile.samples, device=profile.device, dense_ms=1.0
            )
        off = fitted.predict_many(counts) / truth - 1.0
        found.append(
            {
                "network": network,
                "runtime": runtime,
                "penalty": name,
                "samples": len(profile.samples),
                "error": float(np.abs(off).mean()),
                "small_error": float(np.abs(off[truth < 0.35]).mean()),
                **errors(off, kinds),
                "held_out": fitted.error,
                "powers": " ".join(f"{power:.2f}" for power in fitted.powers),
            }
        )
    return found


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on, and the means over the networks."""
    means = rows.groupby("penalty", sort=False)[["error", "small_error", "held_out"]].mean()
    told = "; ".join(f"{name}: {row.error:.1%}" for name, row in means.iterrows())
    return (
        "# A sum over layers, and more than that\n\nError and bias of predicted latencies on 36 "
        f"prunings not seen before, one thread, from the same measurements. {harness.stamp(rows)}"
        f"\n\nMean errors by the penalty of the powers: {told}.\n\n{harness.table(rows, SHOWN)}\n\n"
        "Each prediction is the sum over layers raised to a power, times totals of the model "
        "(multiply-accumulates, bytes, calls) raised to powers; none is negative, and the penalty "
        "draws the first to 1 and the others to 0 (`fitting.powers`). A network without blocks "
        "(vgg) has nothing pruned where only blocks are.\n"
    )


if __name__ == "__main__":
    main()
