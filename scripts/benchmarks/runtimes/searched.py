"""The models of one search in every runtime: chosen for one of them, run in another.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.runtimes.searched  # 10 min, LiteRT 6 more
    python -m scripts.benchmarks.runtimes.searched --runtimes litert  # adds or replaces one

Searches ResNet-20 on CIFAR-10 once for latency in ONNX Runtime (channels and blocks, 24 trials, a
tenth of an epoch each) and keeps the run in `results/runtimes/run`. The architectures that it has
trained in float32 are timed beside the dense model in each runtime, on one thread. For each runtime
and limit the most accurate one within the limit there is chosen, and shown with its latency in all
others. Rows: `results/runtimes/searched.csv`; table: `searched.md`.
"""

from __future__ import annotations

import pandas as pd
import torch

import autoprune
from autoprune.api import run_config
from autoprune.architecture import Architecture
from autoprune.config import RunConfig
from autoprune.cost.latency import measure_together
from autoprune.cost.targets import RUNTIMES
from autoprune.device.sampling import pruned
from autoprune.errors import ExportError
from autoprune.pruning.verification import prunable
from autoprune.store import write_text
from autoprune.tasks import load_dense, load_task
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, ROOT, Rows
from scripts.benchmarks.runtimes.__main__ import ON_CPU, installed, others, square, stamps

OUT = RESULTS / "runtimes"
LIMITS = (0.6, 0.4, 0.25)
TOLERATED = 0.05  # of a limit: what is above it by less counts as within
REPEATS = 60
MODELS = 24
CONFIG = {
    "task": str(ROOT / "examples/cifar10.py:Cifar10ResNet20"),
    "output": str(OUT / "run"),
    "budget": {"latency_ms": "60%"},
    "device": {"runtime": "onnxruntime", "threads": 1},
    "space": {
        "ratios": {"max": 0.8},
        "round_to": "auto",
        "depth": {"max": 0.7},
        "importance": "obs",
        "schedule": {"kind": "one_shot"},
    },
    "search": {
        **{"variables": "allocation", "levels": ["50%", "40%", "30%", "25%"], "trials": 24},
        **{"epochs": 0.1, "rungs": 0, "concurrent": 1, "screen": 8, "patience": 0, "seed": 0},
    },
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runtimes", nargs="+", default=[*installed()])
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = trained(searched())
    task = load_task(CONFIG["task"])
    dense, example = load_dense(task).eval(), task.example_input()
    graph = prunable(dense, example)
    models = [pruned(dense, graph, architecture) for _, _, architecture in found]
    file = Rows(OUT / "searched.csv", ["runtime", "trial"])
    for runtime in given.runtimes:
        try:
            first, *rest = measure_together([dense, *models], example, runtime, repeats=REPEATS)
        except ExportError as error:
            print(f"left out: {error}")
            continue
        where = harness.circumstances([*harness.PACKAGES, *others(RUNTIMES[runtime].packages)])
        file.put(
            *(
                {
                    "runtime": runtime,
                    "trial": number,
                    "accuracy": accuracy,
                    "ratio": timed.ratio,
                    "half_width": (timed.ratio_ci[1] - timed.ratio_ci[0]) / 2 / timed.ratio,
                    "dense_ms": first.median_ms,
                    "busy": timed.busy,
                    "seed": 0,
                    **where,
                }
                for (number, accuracy, _), timed in zip(found, rest, strict=True)
            )
        )
        print(f"{runtime}: dense {first.median_ms:.2f} ms", flush=True)
    words = page(file.read())
    write_text(OUT / "searched.md", words)
    print(words)


def searched() -> autoprune.Result:
    """The run that is kept, resumed where it was interrupted."""
    if (OUT / "run").is_dir():
        return autoprune.resume(OUT / "run")
    return run_config(RunConfig.from_dict(CONFIG))


def trained(result: autoprune.Result) -> list[tuple[int, float, Architecture]]:
    """Number, accuracy and architecture of the most accurate trials, one for each architecture."""
    ended = [each for each in result.records if each.state == "complete"]
    best: dict[Architecture, tuple[int, float, Architecture]] = {}
    for record in sorted(ended, key=lambda each: -each.metrics["accuracy"]):
        built = record.candidate.architecture
        best.setdefault(built, (record.number, record.metrics["accuracy"], built))
    models = [*best.values()]
    return [models[place] for place in spread(len(models), MODELS)]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread.

    >>> spread(5, 3)
    [0, 2, 4]
    """
    if count <= most:
        return [*range(count)]
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def choices(rows: pd.DataFrame, limit: float) -> pd.DataFrame:
    """For each runtime the most accurate model within a share of the dense model's latency there.

    Its trial and accuracy, and its latency in all runtimes, relative to the dense model's.
    """
    ratios = rows.pivot(index="trial", columns="runtime", values="ratio")
    ratios = ratios[list(dict.fromkeys(rows.runtime))]
    accuracy = rows.groupby("trial").accuracy.first()
    chosen = {}
    for runtime in ratios:
        within = accuracy[ratios[runtime] <= limit]
        if not within.empty:
            chosen[runtime] = within.idxmax()
    picked = ratios.loc[[*chosen.values()]].set_axis([*chosen], axis=0)
    picked.insert(0, "trial", [*chosen.values()])
    picked.insert(1, "accuracy", accuracy.loc[[*chosen.values()]].to_numpy())
    return picked


def page(rows: pd.DataFrame) -> str:
    """A table for each limit, with what was measured where."""
    each = "\n\n".join(_table(choices(rows, limit), limit) for limit in LIMITS)
    dense = rows.groupby("runtime", sort=False).dense_ms.first()
    missing = [name for name in ON_CPU if name not in dense.index]
    absent = f" Not measured: {', '.join(missing)}." if missing else ""
    times = ", ".join(f"{runtime} {ms:.2f} ms" for runtime, ms in dense.items())
    return (
        "# The models of one search, chosen for one runtime and run in another\n\n"
        f"{rows.trial.nunique()} architectures that a search of ResNet-20 on CIFAR-10 has trained "
        "(channels and blocks, a tenth of an epoch: accuracies order the models, they are not what "
        "a retraining reaches); one image, one thread, float32. Latencies are relative to the "
        f"dense model's in the same runtime ({times}). For each runtime the most accurate model "
        f"within the limit *there*; in bold what is above the limit by more than {TOLERATED:.0%} "
        f"elsewhere.{absent}\n\n{stamps(rows)}\n\n{each}\n"
    )


def _table(chosen: pd.DataFrame, limit: float) -> str:
    """A Markdown table of the choices at one limit."""
    runtimes = chosen.columns[2:]
    latencies = chosen[runtimes]
    above = int((latencies > limit * (1 + TOLERATED)).sum().sum())
    shown = latencies.map(
        lambda ratio: f"**{ratio:.1%}**" if ratio > limit * (1 + TOLERATED) else f"{ratio:.1%}"
    )
    shown.insert(0, "trial", chosen.trial)
    shown.insert(1, "validation", chosen.accuracy.map("{:.1%}".format))
    return (
        f"## At most {limit:.0%} of the dense model's latency\n\n"
        f"{square(shown, '', 'chosen for')}\n\n"
        f"Above the limit elsewhere: {above} of {latencies.size - len(latencies)}."
    )


if __name__ == "__main__":
    main()
