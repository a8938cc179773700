"""The allocator beside a greedy descent, sequential milp and Lagrangian steps, on random problems.

    python -m scripts.benchmarks.allocator.compare      # some minutes on one core

Small problems against brute force, 1,000 middle ones against uniform widths that are filled up to
the limits, large ones (200 groups with 16 options) by time. Writes `results/allocator/random.csv`
and prints the tables of the `README.md` there.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from autoprune._search.allocation.allocator import Allocator
from scripts.benchmarks.allocator.instances import (
    Instance,
    brute_force,
    large,
    middle,
    small,
    uniform,
)
from scripts.benchmarks.allocator.rivals import Rival, greedy

OUT = Path(__file__).parents[3] / "results" / "allocator"
METHODS = ("uniform", "greedy", "milp", "lagrangian", "allocator")
LARGE = (("macs",), ("latency_ms",), ("peak_memory_bytes",), ("latency_ms", "peak_memory_bytes"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--middle", type=int, default=1000)
    parser.add_argument("--large", type=int, default=3)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame(_rows(given.small, given.middle, given.large))
    rows.to_csv(OUT / "random.csv", index=False, float_format="%.6g")
    text = _table(rows)
    print(text)


def _rows(smalls: int, middles: int, larges: int) -> Iterator[dict[str, object]]:
    for seed in range(smalls):
        instance = small(seed)
        yield from _compared("small", instance, best=brute_force(instance))
    for seed in range(middles):
        yield from _compared("middle", middle(seed))
    for seed in range(larges):
        for costs in LARGE:
            yield from _compared("large", large(seed, costs))


def _compared(kind: str, instance: Instance, best: float | None = None) -> Iterator[dict]:
    for method in METHODS:
        started = time.process_time()
        found = _solver(method)(instance)
        seconds = time.process_time() - started
        fits = found is not None and instance.within(found)
        yield {
            "kind": kind,
            "seed": instance.seed,
            "costs": "+".join(instance.costs),
            "method": method,
            "sensitivity": instance.harm(found) if found is not None and fits else float("nan"),
            "best": best,
            "seconds": seconds,
        }


def _solver(method: str) -> Callable[[Instance], dict[str, int] | None]:
    def solve(instance: Instance) -> dict[str, int] | None:
        parts = instance.items, instance.sensitivity, instance.load
        if method == "milp":
            return Rival(*parts).milp(instance.limits)
        if method == "lagrangian":
            return Rival(*parts).lagrangian(instance.limits)
        if method == "allocator":
            return Allocator(*parts).at(instance.limits)
        options = {item.name: item.options for item in instance.items}
        return greedy(options, instance.sensitivity, instance.worst, 1.0)

    return uniform if method == "uniform" else solve


def _table(rows: pd.DataFrame) -> str:
    wide = rows.pivot_table(
        index=["kind", "seed", "costs"], columns="method", values="sensitivity", dropna=False
    ).dropna(how="all")
    lines = [
        f"{platform.processor() or platform.machine()}, one thread, Python "
        f"{platform.python_version()}, NumPy {version('numpy')}, SciPy {version('scipy')}; "
        f"{date.today().isoformat()}. Seconds are of the processor.",
    ]
    for kind, note in _NOTES.items():
        part, sums = rows[rows.kind == kind], wide[wide.index.get_level_values("kind") == kind]
        if part.empty:
            continue
        lines += ["", f"## {note.format(len(sums))}", "", _HEAD, "|---" * 6 + "|"]
        best = part.groupby(["kind", "seed", "costs"]).best.first()
        best = best if kind == "small" else sums.min(axis=1)
        for method in METHODS:
            gaps = _gap(sums[method], best.reindex(sums.index))
            known = sums["uniform"].notna()
            lost = (~(sums[method] <= sums["uniform"] * (1 + 1e-9)) & known).sum()
            seconds = part[part.method == method].seconds
            lines.append(
                f"| {method} | {gaps.mean():.2%} | {gaps.max():.2%} | {sums[method].isna().sum()} "
                f"| {lost} of {known.sum()} | {seconds.mean():.3f} ({seconds.max():.3f}) |"
            )
    return "\n".join(lines) + "\n"


def _gap(found: pd.Series, best: pd.Series) -> pd.Series:
    """Relative to the best; where that is nothing, whether it was found."""
    return ((found - best) / best.where(best > 1e-9, 1.0)).dropna()


_HEAD = "| method | gap, mean | gap, max | none found | worse than uniform | seconds (max) |"
_NOTES = {
    "small": "{} small problems: gap to brute force",
    "middle": "{} problems of 3 to 40 items: gap to the best of the five",
    "large": "{} problems of 200 groups with 16 options: gap to the best of the five",
}


if __name__ == "__main__":
    main()
