"""What foresees how good an allocation is after a long recovery.

    AUTOPRUNE_DATA=... python scripts/bench_longrun.py --tasks spoken_digits --cost 0.12

Allocations of one cost (uniform, global importance, the knapsack, and random ones about these), all
with units, repair and recipe of a search, are trained for a trial of the benchmark, for four times
as long, and for `--epochs`. Rank correlations (Kendall) of the last with what is known before:
score right after repair, added damages of single groups, parameters, shorter trainings. The first
three are also trained with units by l2 and without repair. Rows are appended as they come to
`results/bench/search/longrun.csv`; the table of them is `longrun.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_search.scored import Scored, scored
from bench_search.setup import FULL, recover
from bench_search.text import frame

from autoprune._search.allocator import Allocator, Sensitivity, total_sensitivity
from autoprune._search.prepare import relative_worth
from autoprune._search.ranking import Ranking
from autoprune._search.score import NO_DAMAGE
from autoprune._search.seeding import recipe
from autoprune.candidate import Candidate
from autoprune.cost.targets import device_name
from autoprune.store import write_text
from autoprune.training import choose

OUT = Path(__file__).parents[1] / "results" / "bench" / "search"
PLAIN = ", plain l2"  # the same widths, units by l2, without repair
SEED, FACTOR = 0, 0.45  # of the random draws; the standard deviation of a width's logarithm
KNOWN = ("score", "harm", "prior", "params", "MACs", "short", "middle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(FULL), default=list(FULL))
    parser.add_argument("--cost", type=float, default=0.25, help="share of the MACs")
    parser.add_argument("--count", type=int, default=16, help="allocations")
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = given.out / "longrun.csv"
    for task in given.tasks:
        for row in _rows(task, given, file):
            old = pd.read_csv(file) if file.exists() else pd.DataFrame()
            write_text(file, pd.concat([old, pd.DataFrame([row])]).to_csv(index=False))
            print({name: value for name, value in row.items() if name != "ratios"}, flush=True)
    (given.out / "longrun.md").write_text(_table(pd.read_csv(file)), encoding="utf-8")


def _rows(task: str, given: argparse.Namespace, file: Path) -> Iterator[dict[str, object]]:
    ready = scored(task, seed=SEED)
    setup = replace(ready.setup, precision=choose(ready.setup.task.task, ready.setup.dense))
    score, damage = ready.score(SEED), ready.sensitivity(SEED).at
    for name, candidate in _population(ready, damage, given.cost, given.count).items():
        about = {"task": task, "cost": given.cost, "epochs": given.epochs, "made": name}
        if file.exists() and (pd.read_csv(file)[list(about)] == pd.Series(about)).all(axis=1).any():
            continue
        kept = ready.plan.space.kept(candidate, ready.plan.sizes)
        cost = ready.plan.cost(candidate)
        row: dict[str, object] = {
            **about,
            "MACs": cost.get("macs") / setup.dense_macs,
            "params": cost.get("params"),
            "score": score(candidate),
            "harm": math.log(max(NO_DAMAGE, total_sensitivity(damage, kept))),
        }
        lengths = {"short": setup.epochs, "middle": 4.0 * setup.epochs, "long": given.epochs}
        for length, epochs in lengths.items():
            run = recover(
                setup,
                candidate,
                epochs=epochs,
                seed=SEED,
                calibration=ready.calibration,
            )
            row[length] = run.metrics[setup.task.metric]
        row["long_test"] = run.evaluate("test")[setup.task.metric]
        yield {**row, "train_s": run.times["train_s"], "ratios": json.dumps(dict(candidate.ratios))}


def _population(
    ready: Scored, damage: Sensitivity, cost: float, count: int
) -> dict[str, Candidate]:
    """By name; random ones change every width of one of the others, then all to the cost."""
    plan, rng = ready.plan, np.random.default_rng(SEED)
    choices = {name: plan.space.choices(name, plan.sizes) for name in plan.sizes}
    limit = cost * ready.setup.dense_macs

    def price(kept: Mapping[str, int]) -> float:
        return plan.price(kept, ("macs",)).get("macs")

    def scaled(widths: Mapping[str, float]) -> dict[str, int]:
        low, high = 0.0, 2.0 / min(widths[name] / plan.sizes[name] for name in widths)
        for _ in range(24):
            middle = (low + high) / 2.0
            over = price(_nearest(choices, widths, middle)) > limit
            low, high = (low, middle) if over else (middle, high)
        return _nearest(choices, widths, low)

    worth = relative_worth(ready.setup.dense, ready.setup.graph, ready.calibration)
    found = {
        "uniform": scaled({name: float(size) for name, size in plan.sizes.items()}),
        "global": Ranking(choices, worth, price).at(limit),
        "knapsack": Allocator.of_widths(choices, damage, price).at(limit),
    }
    rules = list(found.values())
    for number in range(count - len(rules)):
        base = rules[number % len(rules)]
        drawn = {name: units * math.exp(rng.normal(0.0, FACTOR)) for name, units in base.items()}
        found[f"random-{number}"] = scaled(drawn)
    start = recipe(plan.space, plan.sizes)
    made = {name: plan.resized(start, kept) for name, kept in found.items()}
    plain = {
        f"{name}{PLAIN}": replace(made[name], importance="l2", repair=False)
        for name in ("uniform", "global", "knapsack")
    }
    return {**plain, **made}


def _nearest(
    choices: Mapping[str, Sequence[int]], widths: Mapping[str, float], factor: float
) -> dict[str, int]:
    return {n: min(choices[n], key=lambda u: abs(u - factor * widths[n])) for n in widths}


def _table(rows: pd.DataFrame) -> str:
    rows = rows.assign(prior=rows.score + rows.harm)
    repaired = rows[~rows.made.str.endswith(PLAIN)]
    lines = [
        "# What foresees a long recovery",
        "",
        "`python scripts/bench_longrun.py`: allocations of one cost. Of those with units by obs, "
        "repaired: Kendall's rank correlation",
        "of the accuracy (mean of validation and test) after the long recovery with what is known "
        "before; `best half` of them by score +",
        "harm. `mean` and `spread` (standard deviation) are of that accuracy in %. "
        f"{device_name()}, Python {platform.python_version()},",
        f"torch {version('torch')}; {date.today().isoformat()}.",
        "",
    ]
    found = {}
    for (task, cost, epochs), part in repaired.groupby(["task", "cost", "epochs"], sort=False):
        half = part.nsmallest(len(part) // 2, "prior")
        for name, some in (("all", part), ("best half", half)):
            end = (some.long + some.long_test) / 2.0
            own = {
                what: (-1.0 if what in ("score", "harm", "prior") else 1.0)
                * some[what].corr(end, method="kendall")
                for what in KNOWN
            }
            label = f"{task}, {cost:.0%}, {epochs:g} epochs, {name} ({len(some)})"
            found[label] = {**own, "spread": 100.0 * end.std(), "mean": 100.0 * end.mean()}
    lines += [frame(pd.DataFrame(found).T, 2), ""]
    for (task, cost, epochs), part in rows.groupby(["task", "cost", "epochs"], sort=False):
        shown = part.sort_values("long", ascending=False).set_index("made")
        shown[["MACs", "short", "middle", "long", "long_test"]] *= 100.0
        shown["params"] /= 1000.0
        columns = ["MACs", "params", "score", "harm", "short", "middle", "long", "long_test"]
        lines += [
            f"## {task}, {cost:.0%}, {epochs:g} epochs",
            "",
            frame(shown[columns], 2),
            "",
            "Parameters in thousands, accuracies in %.",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
