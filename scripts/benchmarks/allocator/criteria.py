"""What the allocator should minimize: widths by several criteria, trained, at the same costs.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.allocator.criteria     # 1 min a row

Each criterion chooses widths within a share of the dense model's multiply-accumulates; all have the
same order of units, repair and short training (that of `scripts.benchmarks.search`), and are judged
on validation data. `sum` is the allocator of the search: the least sum of the groups'
sensitivities, each pruned alone. `root` sums their square roots, `half` and `most` forbid widths
below 0.5 and 0.75 of what uniform widths leave of a group, `middle` is half of the way (of the
logarithms) from uniform widths to `sum`. `divergence` is that of the outputs before training.
Rows:
`results/allocator/criteria.csv`; table: `criteria.md`.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from autoprune._search.allocation.allocator import Allocator
from autoprune.architecture import Architecture
from autoprune.candidate import Selection
from autoprune.pruning import importance, sensitivity
from autoprune.pruning.build import build
from autoprune.space import kept_units
from autoprune.store import write_text
from autoprune.tasks.on_batches import outputs_of
from autoprune.training import Precision
from autoprune.training.batches import sample
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.search import handmade, setup

OUT = RESULTS / "allocator"
KEY = ["task", "share", "criterion", "seed"]
JOBS = {**setup.FULL, **setup.OTHERS}
SAMPLES = 512
SHOWN = {
    "task": ("task", ""),
    "share": ("multiply-accumulates", ".0%"),
    "criterion": ("criterion", ""),
    "seeds": ("seeds", "d"),
    "divergence": ("divergence before training", ".3f"),
    "accuracy": ("validation", ".1%"),
    "difference": ("beside uniform, points", ""),
}
Widths = dict[str, int]


class Bench:
    """One task with its sensitivities, and widths by every criterion."""

    def __init__(self, job: setup.Job, folder: Path) -> None:
        self.setup = setup.prepare(job, folder, precision=Precision())
        dense, graph, task = self.setup.dense, self.setup.graph, self.setup.task
        self.sizes = graph.sizes()
        self.calibration = handmade.calibrated(self.setup, 0)
        self.scores = importance.scores(dense, graph, "obs", calibration=self.calibration)
        batches = sample(task, 0, samples=SAMPLES, least=1)
        self.divergence = sensitivity.divergence(dense, batches, forward=partial(outputs_of, task))
        self.table = sensitivity.measure(
            dense, graph, self.calibration, self.divergence, scores=self.scores
        )

    def uniform(self, share: float) -> Widths:
        return setup.fitted(self.setup, self._even, share)

    def _even(self, part: float) -> Widths:
        ratio = part * setup.MAX_RATIO
        return {name: kept_units(size, ratio, 1) for name, size in self.sizes.items()}

    def least(
        self, share: float, power: float = 1.0, floor: float = 0.0, start: Widths | None = None
    ) -> Widths:
        """The least sum of sensitivities to the power of `power`.

        No width below `floor` of uniform widths at this share.
        """
        even = self.uniform(share)
        options = {
            name: [
                n
                for n in range(kept_units(size, setup.MAX_RATIO, 1), size + 1)
                if n >= min(even[name], math.ceil(floor * even[name]))
            ]
            for name, size in self.sizes.items()
        }
        costs = functools.cache(
            lambda key: self.setup.share(dict(zip(self.sizes, key, strict=True)))
        )
        found = Allocator.of_widths(
            options,
            lambda name, count: self.table.at(name, count) ** power,
            lambda widths: costs(tuple(widths[name] for name in self.sizes)),
            effort=4000,
        )
        return found.at(share)

    def middle(self, share: float) -> Widths:
        even, least = self.uniform(share), self.least(share)

        def at(part: float) -> Widths:
            factor = 2.0 - 2.0 * part  # below 1: smaller than the middle
            return {
                name: min(size, max(1, round(factor * math.sqrt(even[name] * least[name]))))
                for name, size in self.sizes.items()
            }

        return setup.fitted(self.setup, at, share)

    def row(self, widths: Widths, seed: int) -> dict[str, Any]:
        candidate = self.setup.candidate(widths, selection=Selection("obs"))
        small = build(
            self.setup.dense,
            self.setup.graph,
            Architecture(widths),
            scores=self.scores,
            calibration=self.calibration,
        ).model
        run = setup.recover(
            self.setup,
            candidate,
            epochs=self.setup.epochs,
            seed=seed,
            calibration=self.calibration,
        )
        return {
            "macs_share": self.setup.share(widths),
            "widths": " ".join(map(str, widths.values())),
            "divergence": self.divergence(small),
            "accuracy": run.metrics[self.setup.task.metric],
        }


CRITERIA: Mapping[str, Callable[[Bench, float], Widths]] = {
    "uniform": Bench.uniform,
    "sum": Bench.least,
    "root": partial(Bench.least, power=0.5),
    "half": partial(Bench.least, floor=0.5),
    "most": partial(Bench.least, floor=0.75),
    "middle": Bench.middle,
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.12, 0.06])
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    rows, where = Rows(OUT / "criteria.csv", KEY), harness.circumstances()
    for name in given.tasks:
        with tempfile.TemporaryDirectory(prefix="bench-criteria-") as folder:
            bench = Bench(JOBS[name], Path(folder))
            for share in given.shares:
                made = {each: CRITERIA[each](bench, share) for each in given.criteria}
                for seed in given.seeds:
                    for criterion, widths in made.items():
                        key = {"task": name, "share": share, "criterion": criterion, "seed": seed}
                        if len(rows.find(**key)):
                            continue
                        found = {**key, **bench.row(widths, seed)}
                        print(found, flush=True)
                        rows.put({**found, **where})
                write_text(OUT / "criteria.md", page(rows.read()))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, with the mean and the range of paired differences to uniform widths."""
    found = []
    for (task, share), group in rows.groupby(["task", "share"], sort=False):
        even = group[group.criterion == "uniform"].set_index("seed").accuracy
        for criterion, members in group.groupby("criterion", sort=False):
            points = 100.0 * (members.set_index("seed").accuracy - even).dropna()
            found.append(
                {
                    **{"task": task, "share": share, "criterion": criterion},
                    **{"seeds": len(members), "divergence": members.divergence.mean()},
                    "accuracy": members.accuracy.mean(),
                    "difference": _spread(points) if criterion != "uniform" else "",
                }
            )
    return pd.DataFrame(found)


def _spread(points: pd.Series) -> str:
    if len(points) < 2:
        return "".join(f"{value:+.1f}" for value in points)
    return f"{points.mean():+.1f} ({points.min():+.1f} to {points.max():+.1f})"


def page(rows: pd.DataFrame) -> str:
    """The table with what it was measured on."""
    return (
        "# What the allocator should minimize\n\nWidths by several criteria within a share of the "
        "multiply-accumulates, after the same short training; `scripts/benchmarks/allocator/"
        "criteria.py` says what they are. In brackets the least and the largest paired difference. "
        f"{harness.stamp(rows)}\n\n{harness.table(summary(rows), SHOWN)}\n"
    )


if __name__ == "__main__":
    main()
