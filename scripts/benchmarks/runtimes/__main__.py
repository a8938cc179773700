"""Chosen for one runtime, run in another: the same prunings measured in all that are installed.

    python -m scripts.benchmarks.runtimes                      # 10 min
    python -m scripts.benchmarks.runtimes --runtimes openvino  # adds or replaces one

A MobileNetV2 with half of the units of every group, and 24 random prunings with 45 to 55 % of its
multiply-accumulates, each timed beside the dense model on one thread. Printed are the speed of half
widths, the rank correlation of the 24 between two runtimes, and the regret: the fastest of the 24
in one runtime, timed in another, over the fastest there. Rows: `results/runtimes/runtimes.csv`;
tables: `README.md`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from scipy.stats import spearmanr

from autoprune.architecture import Architecture
from autoprune.cost.latency import measure_together
from autoprune.cost.model import CostModel
from autoprune.cost.targets import PACKAGES, RUNTIMES
from autoprune.device.sampling import pruned, random_architectures
from autoprune.errors import DeviceError
from autoprune.graph import PruningGraph
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.latency.families import FAMILIES

OUT = RESULTS / "runtimes"
NETWORK = "mobilenet"
CHOSEN_FROM, BAND, POOL = 24, (0.45, 0.55), 2000
HALF = -1  # the number of the pruning to half widths
REPEATS = 90
ON_CPU = ("torch", "onnxruntime", "openvino", "ncnn", "executorch")
SPEEDS = {
    "runtime": ("runtime", ""),
    "dense_ms": ("dense, ms", ".2f"),
    "half": ("half widths: times as fast", ".2f"),
    "fastest": ("fastest of the 24", ".2f"),
    "slowest": ("slowest", ".2f"),
    "half_width": ("95 % interval, median", ".1%"),
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runtimes", nargs="+", default=[*installed()])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    family = FAMILIES[NETWORK]
    dense, example = family.build().eval(), family.example()
    graph = prunable(dense, example)
    chosen = {HALF: half_of(graph), **dict(enumerate(within(graph, BAND)))}
    costs = CostModel(graph)
    models = [pruned(dense, graph, architecture) for architecture in chosen.values()]
    file = Rows(OUT / "runtimes.csv", ["network", "runtime", "number"])
    for runtime in options.runtimes:
        first, *rest = measure_together([dense, *models], example, runtime, repeats=REPEATS)
        where = harness.circumstances([*harness.PACKAGES, *others(RUNTIMES[runtime].packages)])
        file.put(
            *(
                {
                    "network": NETWORK,
                    "runtime": runtime,
                    "number": number,
                    "macs": costs.cost(architecture).get("macs") / costs.dense.get("macs"),
                    "ratio": found.ratio,
                    "half_width": (found.ratio_ci[1] - found.ratio_ci[0]) / 2 / found.ratio,
                    "median_ms": found.median_ms,
                    "dense_ms": first.median_ms,
                    "busy": found.busy,
                    "seed": 0,
                    **where,
                }
                for (number, architecture), found in zip(chosen.items(), rest, strict=True)
            )
        )
        print(f"{runtime}: dense {first.median_ms:.2f} ms", flush=True)
    words = page(file.read())
    write_text(OUT / "README.md", words)
    print(words)


def installed() -> Iterator[str]:
    """The runtimes of the processor that are here; compiling takes too long for 25 models."""
    for name in ON_CPU:
        try:
            RUNTIMES[name].check()
        except DeviceError as error:
            print(f"left out: {error}")
        else:
            yield name


def others(packages: Sequence[str]) -> list[str]:
    """Those whose versions are not in every row."""
    return [name for name in packages if name in PACKAGES and name not in harness.PACKAGES]


def half_of(graph: PruningGraph) -> Architecture:
    """Half of the units of every group."""
    return Architecture({group.name: max(1, group.size // 2) for group in graph.groups})


def within(graph: PruningGraph, band: tuple[float, float]) -> list[Architecture]:
    """Random prunings whose multiply-accumulates are in this band, relative to the dense model."""
    costs = CostModel(graph)
    low, high = (share * costs.dense.get("macs") for share in band)
    drawn = random_architectures(graph, POOL, seed=0)
    found = (each for each in drawn if low <= costs.cost(each).get("macs") <= high)
    return list(itertools.islice(found, CHOSEN_FROM))


def regrets(ratios: pd.DataFrame) -> pd.DataFrame:
    """`prunings x runtimes` → by runtime of the choice and of the run, the loss in percent.

    >>> regrets(pd.DataFrame({"a": [0.5, 0.6], "b": [0.6, 0.4]})).loc["a", "b"].round(6)
    0.5
    """
    picks = ratios.idxmin()
    losses = {run: ratios.loc[picks, run].to_numpy() / ratios[run].min() - 1.0 for run in ratios}
    return pd.DataFrame(losses, index=ratios.columns)


def correlations(ratios: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation between every two columns."""
    return pd.DataFrame(
        {b: {a: spearmanr(ratios[a], ratios[b]).statistic for a in ratios} for b in ratios}
    )


def page(rows: pd.DataFrame) -> str:
    """All tables, with what they were measured on."""
    names = list(dict.fromkeys(rows.runtime))
    ratios = rows[rows.number != HALF].pivot(index="number", columns="runtime", values="ratio")
    ratios = ratios[names]
    missing = [name for name in ON_CPU if name not in names]
    absent = f" Not measured: {', '.join(missing)}." if missing else ""
    speeds = pd.DataFrame([speed(rows[rows.runtime == name], name) for name in names])
    return (
        "# Chosen for one runtime, run in another\n\n"
        f"{NETWORK}, one input of 96 x 96, one thread, float32; {len(ratios)} random prunings with "
        f"{BAND[0]:.0%} to {BAND[1]:.0%} of the multiply-accumulates, beside the dense model. "
        f"Speeds are relative to the dense model in the same runtime.{absent}\n\n{stamps(rows)}\n\n"
        f"{harness.table(speeds, SPEEDS)}\n\n"
        "Rank correlation of the prunings' latencies, which all have about the same number of "
        f"multiply-accumulates:\n\n{square(correlations(ratios), '.2f', 'runtime')}\n\n"
        "How much slower the fastest pruning of one runtime (row) is in another (column) than the "
        f"fastest there:\n\n{square(regrets(ratios), '.1%', 'chosen in')}\n"
    )


def speed(rows: pd.DataFrame, name: str) -> dict[str, object]:
    """One row of the first table."""
    band = rows[rows.number != HALF]
    return {
        "runtime": name,
        "dense_ms": rows.dense_ms.iloc[0],
        "half": 1.0 / rows[rows.number == HALF].ratio.iloc[0],
        "fastest": 1.0 / band.ratio.min(),
        "slowest": 1.0 / band.ratio.max(),
        "half_width": rows.half_width.median(),
    }


def stamps(rows: pd.DataFrame) -> str:
    """Where each runtime was measured; they may have been added one by one."""
    each = [rows[rows.runtime == name] for name in dict.fromkeys(rows.runtime)]
    return "\n".join(f"- {one.runtime.iloc[0]}: {harness.stamp(one)}" for one in each)


def square(values: pd.DataFrame, form: str, corner: str) -> str:
    """A Markdown table of runtimes by runtimes."""
    formats = {corner: (corner, ""), **{name: (name, form) for name in values.columns}}
    return harness.table(values.rename_axis(corner).reset_index(), formats)


if __name__ == "__main__":
    main()
