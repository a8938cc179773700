"""How well latencies of unseen prunings are predicted: four families, two runtimes.

    python -m scripts.benchmarks.latency              # all, about three minutes each
    python -m scripts.benchmarks.latency --families vit --runtimes torch
    python -m scripts.benchmarks.latency --rate       # candidates costed per second, ResNet-56

Each profile measures at most 100 prunings, for about 48 s. Then 40 prunings that it has not seen
(drawn as its first ones, other seed) are measured six times beside the dense model; errors are
those of the time relative to dense, so that the machine's drift cancels. Beside it, a fit to
multiply-accumulates alone on the same measurements, and a lookup: every group alone at as many
widths as 40 measurements allow, differences to the dense model added. Rows:
`results/latency/latency.csv`; table: `summary.md`. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn

from autoprune.architecture import Architecture
from autoprune.cost.inputs import Inputs
from autoprune.cost.model import CostModel
from autoprune.cost.targets import device_name
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Sample, Sampler, Until, random_architectures
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from examples.cifar10 import CifarResNet
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES

OUT = RESULTS / "latency"
UNSEEN, PASSES, SEED, LOOKUP = 40, 6, 1000, 40
SHOWN = {
    "family": ("family", ""),
    "runtime": ("runtime", ""),
    "dense_ms": ("dense ms", ".3f"),
    "samples": ("measured", ""),
    "measuring_s": ("seconds", ".1f"),
    "mape": ("error", ".1%"),
    "beyond_10": ("beyond 10 %", ".1%"),
    "rank": ("rank correlation", ".3f"),
    "covered": ("below upper bound", ".1%"),
    "upper_factor": ("upper bound / median", ".3f"),
    "held_out": ("own estimate of error", ".1%"),
    "noise": ("noise of a measurement", ".1%"),
    "macs_mape": ("MACs alone", ".1%"),
    "lookup_mape": ("lookup", ".1%"),
    "stolen": ("processor taken away", ".1%"),
}


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.rate:
        rate()
        return
    file = Rows(OUT / "latency.csv", ["family", "runtime"])
    for family in given.families:
        for runtime in given.runtimes:
            row = bench(family, runtime)
            print({name: row[name] for name in SHOWN}, flush=True)
            file.put({**row, **harness.circumstances()})
    _summary(file.read())


def bench(family: str, runtime: str) -> dict[str, object]:
    """One profile, and what it says of prunings that it has not seen."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[family].build().eval(), FAMILIES[family].example()
    graph = prunable(model, inputs)
    taken, began = _stolen(), time.monotonic()
    predictor = LatencyPredictor.fit(
        model, graph, inputs, runtime=runtime, until=Until(seconds=48.0, error=0.015)
    )
    took = time.monotonic() - began
    sampler = Sampler(model, graph, inputs, runtime=runtime, threads=1, seed=SEED)
    unseen = random_architectures(graph, UNSEEN, SEED)
    kept, logs = [graph.counts(each) for each in unseen], _measured(sampler, unseen)
    measured = np.exp(logs.mean(0))
    predicted = np.array([predictor.predict(k) for k in kept]) / predictor.dense_ms
    off = np.abs(predicted / measured - 1.0)
    return {
        "family": family,
        "runtime": runtime,
        "groups": len(graph.groups),
        "dense_ms": round(predictor.dense_ms, 3),
        "samples": len(predictor.samples),
        "measuring_s": round(took, 1),
        "mape": off.mean(),
        "beyond_10": (off > 0.1).mean(),
        "rank": spearmanr(predicted, measured).statistic,
        "covered": (measured <= predicted * predictor.upper_factor).mean(),
        "upper_factor": predictor.upper_factor,
        "held_out": predictor.error,
        "noise": np.sqrt(logs.var(0, ddof=1).mean()),
        "macs_mape": _macs_alone(graph, predictor, kept, measured),
        "lookup_mape": _lookup(model, graph, inputs, runtime, kept, measured),
        "stolen": (_stolen() - taken) / (time.monotonic() - began) / (os.cpu_count() or 1),
    }


def _measured(sampler: Sampler, unseen: list[Architecture]) -> np.ndarray:
    """The logarithms of the ratios, `passes x prunings`.

    Each pass measures them in other company: what is odd about one copy of the dense model would
    otherwise be in the ratios of the same few each time.
    """
    rng, logs = np.random.default_rng(SEED), np.zeros((PASSES, len(unseen)))
    for row in logs:
        order = rng.permutation(len(unseen))
        found = sampler.measure_these([unseen[place] for place in order])
        row[order] = np.log([sample.ratio for sample in found.samples])
    return logs


def _macs_alone(
    graph: PruningGraph,
    predictor: LatencyPredictor,
    kept: list[dict[str, int]],
    measured: np.ndarray,
) -> float:
    """Error of a + b x MACs, fitted to the same prunings by the same relative squares."""
    costs = CostModel(graph)
    dense = costs.dense.get("macs")

    def rows(all_kept: list[dict[str, int]]) -> np.ndarray:
        counts = np.array([[k[name] for name in graph.columns()] for k in all_kept])
        return np.stack([np.ones(len(counts)), costs.costs(counts, ["macs"])["macs"] / dense], 1)

    x = rows([sample.counts for sample in predictor.samples])
    y = np.array([sample.ratio for sample in predictor.samples])
    line = np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0]
    return float(np.mean(np.abs(rows(kept) @ line / measured - 1.0)))


def _lookup(
    model: nn.Module,
    graph: PruningGraph,
    inputs: Inputs,
    runtime: str,
    kept: list[dict[str, int]],
    measured: np.ndarray,
) -> float:
    """Error of the dense model's time plus what each group alone has saved, interpolated."""
    widths, whole = max(1, LOOKUP // len(graph.groups)), graph.columns()
    alone = [
        Architecture({group.name: max(1, round(group.size * (n + 1) / (widths + 1)))})
        for group in graph.groups
        for n in range(widths)
    ]
    alone += [Architecture(dropped=[block.name]) for block in graph.blocks]
    found = Sampler(model, graph, inputs, runtime=runtime, threads=1, seed=0).measure_these(alone)
    tables: dict[str, list[tuple[int, float]]] = {n: [(size, 1.0)] for n, size in whole.items()}
    for sample in found.samples:
        for name, count in sample.counts.items():
            if count != whole[name]:
                tables[name].append((count, sample.ratio))
    predicted = [
        1.0 + sum(_between(tables[name], count) - 1.0 for name, count in k.items()) for k in kept
    ]
    return float(np.mean(np.abs(np.array(predicted) / measured - 1.0)))


def _between(table: list[tuple[int, float]], units: int) -> float:
    known = sorted(table)
    return float(np.interp(units, [k for k, _ in known], [t for _, t in known]))


def _stolen() -> float:
    """Seconds for which the hypervisor had the processors elsewhere; 0 where that is not known."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def rate() -> None:
    """Candidates costed per second on one core, one by one as a search does, and in bulk."""
    model, inputs = CifarResNet(56).eval(), torch.zeros(1, 3, 32, 32)
    graph = prunable(model, inputs)
    samples = [
        Sample(graph.counts(each), 1.0, 0.5 + 0.01 * place)
        for place, each in enumerate(random_architectures(graph, 40, 0))
    ]
    device = LatencyPredictor.fit(model, graph, inputs, until=Until(10)).device
    predictor = LatencyPredictor.from_samples(graph, samples, device=device, dense_ms=1.0)
    costs = CostModel(graph, latency=predictor)
    kept = random_architectures(graph, 500, 1)
    rates = []
    for _ in range(5):
        began = time.process_time()
        for one in kept:
            costs.cost(one)
        rates.append(len(kept) / (time.process_time() - began))
    print(
        f"ResNet-56, {len(graph.groups)} groups: {statistics.median(rates):.0f} candidates/s with "
        f"latency, one by one (median of 5 x {len(kept)}); {device_name()}, 1 thread"
    )


def _summary(found: pd.DataFrame) -> None:
    words = (
        f"# Predicted latencies\n\n{UNSEEN} prunings that the profile had not seen, each measured "
        f"{PASSES} times; predictions are compared with the mean, the noise of one measurement is "
        f"the standard deviation. Mean error over the rows: {found.mape.mean():.1%} (MACs alone "
        f"{found.macs_mape.mean():.1%}, lookup {found.lookup_mape.mean():.1%}).\n"
        f"{harness.stamp(found)}\n\n{harness.table(found, SHOWN)}\n"
    )
    write_text(OUT / "summary.md", words)
    print(words)


def _arguments() -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument(
        "--runtimes", nargs="+", default=["torch", "onnxruntime"], help="see README"
    )
    parser.add_argument("--rate", action="store_true", help="only how many are costed per second")
    return parser.parse_args()


if __name__ == "__main__":
    main()
