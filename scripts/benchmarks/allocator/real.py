"""The allocator on the costs of ResNet-20 and ResNet-56, beside greedy and uniform widths.

    python -m scripts.benchmarks.allocator.real         # some minutes on one core

Random weights and data, so the sensitivities are real in form only; costs are those of the search:
multiply-accumulates, peak memory as it is counted, and a predicted latency (fitted to a few
measured prunings). Writes `results/allocator/real.csv` and prints the table of the `README.md`
there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from autoprune._search.allocation.allocator import Allocator, Item, total_sensitivity
from autoprune.cost.model import CostModel
from autoprune.device.predictor import LatencyPredictor
from autoprune.device.sampling import Until
from autoprune.graph import trace
from autoprune.pruning import sensitivity
from autoprune.pruning.compensate import calibrate
from autoprune.space import FittedSpace, SearchSpace
from examples.cifar10 import CifarResNet
from scripts.benchmarks.allocator.rivals import greedy

OUT = Path(__file__).parents[3] / "results" / "allocator"
RUNTIME = "onnxruntime"
SHARES = (0.5, 0.25, 0.12)
SPACE = SearchSpace.parse({"ratios": {"max": 0.9}, "round_to": 2})
Load = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56])
    parser.add_argument("--prunings", type=int, default=40, help="measured for the latency")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    OUT.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame([row for d in given.depths for row in bench(d, given.prunings)])
    rows.to_csv(OUT / "real.csv", index=False, float_format="%.5g")
    text = table(pd.read_csv(OUT / "real.csv"))
    print(text)


def table(rows: pd.DataFrame) -> str:
    """One line for each model, costs and share."""
    wide = rows.pivot(index=["model", "costs", "share"], columns="method", values="sensitivity")
    lines = ["| model | costs | share | uniform | greedy | allocator | seconds |", "|---" * 7 + "|"]
    seconds = rows[rows.method == "allocator"].set_index(wide.index.names).seconds
    for at, row in wide.sort_index(ascending=[True, True, False]).iterrows():
        model, costs, share = at
        cells = [f"{row[m]:.3g}" if row[m] == row[m] else "–" for m in METHODS]
        lines.append(
            f"| {model} | {costs} | {share:.0%} | {' | '.join(cells)} | {seconds[at]:.2f} |"
        )
    return "\n".join(lines) + "\n"


METHODS = ("uniform", "greedy", "allocator")


def bench(depth: int, prunings: int) -> Iterator[dict[str, object]]:
    """Every method at every share of every cost."""
    torch.manual_seed(0)
    model = CifarResNet(depth)
    batches = [torch.randn(64, 3, 32, 32)]
    with torch.no_grad():
        for _ in range(30):  # statistics of the batch normalizations: else the outputs saturate
            model(batches[0])
    model.eval()
    example = torch.randn(1, 3, 32, 32)
    graph = trace(model, example)
    calibration = calibrate(model, batches)
    score = sensitivity.divergence(model, batches)
    table = sensitivity.measure(model, graph, calibration, score)
    sizes = graph.sizes()
    fitted = FittedSpace.of(SPACE, sizes)
    widths = {name: fitted.choices(name) for name in sizes}
    for costs, load in _loads(model, graph, example, prunings).items():
        for share in SHARES:
            for method in METHODS:
                started = time.process_time()
                found = _solved(method, widths, table.at, load, share)
                yield {
                    "model": f"ResNet-{depth}",
                    "costs": costs,
                    "share": share,
                    "method": method,
                    "sensitivity": total_sensitivity(table.at, found) if found else np.nan,
                    "seconds": time.process_time() - started,
                }


def _loads(model, graph, example, prunings: int) -> dict[str, Load]:  # type: ignore[no-untyped-def]
    costs = CostModel(graph)
    blocks = len(graph.columns()) - len(graph.sizes())  # all there
    until = Until(samples=prunings)
    predictor = LatencyPredictor.fit(model, graph, example, runtime=RUNTIME, until=until)

    def complete(kept: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([kept, np.ones((len(kept), blocks), dtype=np.int64)], axis=1)

    def counted(*fields: str) -> Load:
        dense = np.array([costs.dense.get(field) for field in fields])

        def load(kept: NDArray[np.int64]) -> NDArray[np.float64]:
            found = costs.costs(complete(kept), fields)
            return np.column_stack([found[field] for field in fields]) / dense

        return load

    def latency(kept: NDArray[np.int64]) -> NDArray[np.float64]:
        return predictor.additive(complete(kept))[:, None]

    macs = counted("macs")
    return {
        "macs": macs,
        "peak memory": counted("peak_memory_bytes"),
        "latency": latency,
        "macs and latency": lambda kept: np.concatenate([macs(kept), latency(kept)], axis=1),
    }


def _solved(method: str, widths, at, load: Load, share: float) -> dict[str, int] | None:  # type: ignore[no-untyped-def]
    def worst(kept) -> float:  # type: ignore[no-untyped-def]
        return float(load(np.array([[kept[name] for name in widths]])).max())

    if method == "allocator":
        items = [Item(name, tuple(options)) for name, options in widths.items()]
        found = Allocator(items, at, load).at(share)
    elif method == "greedy":
        found = greedy(widths, at, worst, share)
    else:
        found = _uniform(widths, at, worst, share)
    return found if worst(found) <= share else None


def _uniform(widths, at, worst, share: float) -> dict[str, int]:  # type: ignore[no-untyped-def]
    """Uniform widths within the share, filled up one step at a time."""
    for ratio in np.linspace(1.0, 0.0, 129):
        kept = {
            n: min(o, key=lambda u, n=n: abs(u - ratio * widths[n][-1])) for n, o in widths.items()
        }
        if worst(kept) <= share:
            break
    while True:
        moved = [
            {**kept, name: options[options.index(kept[name]) + 1]}
            for name, options in widths.items()
            if kept[name] < options[-1]
        ]
        within = [each for each in moved if worst(each) <= share]
        if not within:
            return kept
        kept = min(within, key=lambda each: total_sensitivity(at, each))


if __name__ == "__main__":
    main()
