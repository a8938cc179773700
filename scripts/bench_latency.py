"""How well latencies of unseen prunings are predicted: four families, two runtimes.

    python scripts/bench_latency.py              # all, about three minutes each
    python scripts/bench_latency.py --families vit --runtimes torch
    python scripts/bench_latency.py --rate       # candidates costed per second, ResNet-56

Each profile measures at most 100 prunings, for about 48 s. Then 40 prunings that it has not seen
(drawn as its first ones, other seed) are measured six times beside the dense model; errors are
those of the time relative to dense, so that the machine's drift cancels. Beside it, a fit to
multiply-accumulates alone on the same measurements, and a lookup: every group alone at as many
widths as 40 measurements allow, differences to the dense model added. Rows are added to
`results/bench/latency/latency.csv`, `summary.md` is made anew. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_latency.families import FAMILIES
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
from autoprune.tasks.cifar10 import CifarResNet

OUT = Path(__file__).parents[1] / "results" / "bench" / "latency"
UNSEEN, PASSES, SEED, LOOKUP = 40, 6, 1000, 40
PACKAGES = ("torch", "onnxruntime", "numpy", "scipy")
SHOWN = {
    "family": "family",
    "runtime": "runtime",
    "dense_ms": "dense ms",
    "samples": "measured",
    "measuring_s": "seconds",
    "mape": "error",
    "beyond_10": "beyond 10 %",
    "rank": "rank correlation",
    "covered": "below upper bound",
    "upper_factor": "upper bound / median",
    "held_out": "own estimate of error",
    "noise": "noise of a measurement",
    "macs_mape": "MACs alone",
    "lookup_mape": "lookup",
    "stolen": "processor taken away",
}


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.rate:
        rate()
        return
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "latency.csv"
    for family in given.families:
        for runtime in given.runtimes:
            row = bench(family, runtime)
            print({name: row[name] for name in SHOWN}, flush=True)
            old = pd.read_csv(file) if file.exists() else pd.DataFrame()
            if not old.empty:
                old = old[(old.family != family) | (old.runtime != runtime)]
            pd.concat([old, pd.DataFrame([row])]).to_csv(file, index=False)
    _summary(pd.read_csv(file))


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
    given = random_architectures(graph, UNSEEN, SEED)
    kept, logs = [graph.counts(each) for each in given], _measured(sampler, given)
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
        "machine": f"{device_name()}, 1 thread, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "date": date.today().isoformat(),
    }


def _measured(sampler: Sampler, given: list[Architecture]) -> np.ndarray:
    """The logarithms of the ratios, `passes x prunings`.

    Each pass measures them in other company: what is odd about one copy of the dense model would
    otherwise be in the ratios of the same few each time.
    """
    rng, logs = np.random.default_rng(SEED), np.zeros((PASSES, len(given)))
    for row in logs:
        order = rng.permutation(len(given))
        found = sampler.measure_these([given[place] for place in order])
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
        columns = np.array([[each[name] for name in graph.columns()] for each in all_kept])
        macs = costs.costs(columns, ("macs",))["macs"] / dense
        return np.stack([np.ones(len(macs)), macs], axis=1)

    x = rows([sample.kept for sample in predictor.samples])
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
    widths = max(1, LOOKUP // len(graph.groups))
    alone = [
        Architecture({group.name: max(1, round(group.size * (n + 1) / (widths + 1)))})
        for group in graph.groups
        for n in range(widths)
    ]
    found = Sampler(model, graph, inputs, runtime=runtime, threads=1, seed=0).measure_these(alone)
    tables: dict[str, list[tuple[int, float]]] = {g.name: [(g.size, 1.0)] for g in graph.groups}
    for each, sample in zip(alone, found.samples, strict=True):
        ((name, units),) = each.widths.items()
        tables[name].append((units, sample.ratio))
    predicted = [
        1.0 + sum(_between(table, k[name]) - 1.0 for name, table in tables.items()) for k in kept
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
    table = found[list(SHOWN)].rename(columns=SHOWN)
    shares = ["error", "beyond 10 %", "below upper bound", "own estimate of error"]
    shares += ["noise of a measurement", "MACs alone", "lookup", "processor taken away"]
    for name in shares:
        table[name] = [f"{value:.1%}" for value in table[name]]
    for name in ("rank correlation", "upper bound / median"):
        table[name] = [f"{value:.3f}" for value in table[name]]
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    last = found.iloc[-1]
    words = (
        f"# Predicted latencies\n\n`python scripts/bench_latency.py`: {UNSEEN} prunings that the "
        f"profile had not seen, each measured {PASSES} times; predictions are compared with the "
        "mean, the noise of one measurement is the standard deviation. Mean error over the rows: "
        f"{found.mape.mean():.1%} (MACs alone {found.macs_mape.mean():.1%}, lookup "
        f"{found.lookup_mape.mean():.1%}).\n"
        f"{last.machine}; {last.versions}; {last.date}.\n\n{text}\n"
    )
    (OUT / "summary.md").write_text(words, encoding="utf-8")
    print(words)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument(
        "--runtimes", nargs="+", default=["torch", "onnxruntime"], help="see README"
    )
    parser.add_argument("--rate", action="store_true", help="only how many are costed per second")
    return parser.parse_args()


if __name__ == "__main__":
    main()
