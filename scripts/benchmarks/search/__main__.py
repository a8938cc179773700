"""autoprune beside its peers at equal training compute; finished runs are not repeated.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.search     # three tasks, all methods, 3 seeds
    python -m scripts.benchmarks.search --quick                # a few minutes, needs no data
    python -m scripts.benchmarks.search --tasks spoken_digits --methods autoprune uniform --seeds 0
    python -m scripts.benchmarks.search --factor 10            # and the plain loop at 10 x compute
    python -m scripts.benchmarks.search --long                 # and long recovery of front members

Every method gets the same dense weights, data, recovery recipe, precision, cost model (MACs) and
compute in training samples (`meter.py` says how it is counted). Each finished run (task, method,
seed) is added to `results/search/trials.csv`; `summary.md` and `fronts.png` are made anew.

Methods:
    autoprune    its public search, with the default variables; variants:
                 autoprune_depth (drops residual blocks too),
                 autoprune_l2 (units by l2), autoprune_plain (by l2 and without repair),
                 autoprune_recipe (searches learning rate and distillation too; its first
                 candidates are at the product's usual 0.01, not at the 0.03 of the others, so
                 it is beside autoprune_lr0.01, which is at 0.01 throughout),
                 autoprune_levels (told the same costs as the rules below),
                 autoprune_screen0 (trains every proposal), autoprune_screen8 and
                 autoprune_screen128 (score so many for each one trained; the default is 32).
                 autoprune_ratios, autoprune_ratios_l2 and so on: the same with a ratio for each
                 group as variables, the product's default until 30 November 2026
    uniform      the same ratio everywhere
    global_l2    Torch-Pruning's global pruning chooses ratios and units
    fastnas      the largest drop that every group may cause alone
    modelopt     the same by NVIDIA ModelOpt itself, where installed (pip install '.[test,bench]')
                 (uniform_repaired, global_l2_repaired, fastnas_repaired, modelopt_repaired: the
                 same widths with autoprune's order of units and repair, its calibration counted)
    ray_optuna   Ray Tune with OptunaSearch, every proposal trained as it comes; with --factor 10
                 also "ray_optuna x10"; variants: ray_optuna_recipe, and ray_optuna_competent, which
                 begins with uniform ratios, moves proposals into the budget, orders and repairs
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError
from autoprune.training import Precision, choose
from scripts.benchmarks import harness
from scripts.benchmarks.search import (
    handmade,
    long,
    loop,
    meter,
    modelopt,
    picture,
    searched,
    setup,
    table,
    text,
)
from scripts.benchmarks.search.setup import FULL, QUICK, SMALL, TOLD, Clock, Job, Setup, Tried
from scripts.benchmarks.search.table import Table

Method = Callable[[Setup, int, float], list[Tried]]

SEARCHES: dict[str, dict[str, Any]] = {  # how variants of autoprune's search end -> their options
    "": {},
    "_l2": {"importance": "l2"},
    "_depth": {"depth": True},
    "_plain": {"importance": "l2", "repair": False},
    "_recipe": {"recipe": True},
    "_lr0.01": {"lr": 0.01},
    "_levels": {"levels": TOLD[1:]},
    **{f"_screen{count}": {"screen": count} for count in (0, 8, 128)},
}
METHODS: dict[str, Method] = {
    **{
        f"autoprune{drawn}{name}": functools.partial(
            searched.autoprune, variables=variables, **options
        )
        for drawn, variables in (("", "auto"), ("_ratios", "ratios"))
        for name, options in SEARCHES.items()
    },
    **{name: functools.partial(handmade.run, rule=rule) for name, rule in handmade.RULES.items()},
    **{
        f"{name}_repaired": functools.partial(handmade.run, rule=rule, repaired=True)
        for name, rule in handmade.RULES.items()
    },
    "ray_optuna": loop.ray_optuna,
    "ray_optuna_competent": functools.partial(loop.ray_optuna, competent=True),
    "modelopt": functools.partial(handmade.run, rule=modelopt.modelopt),
    "modelopt_repaired": functools.partial(handmade.run, rule=modelopt.modelopt, repaired=True),
    "ray_optuna_recipe": functools.partial(loop.ray_optuna, recipe=True),
}
DEFAULT = ("autoprune", "uniform_repaired", "uniform", "global_l2", "fastnas", "ray_optuna")
DEFAULT += ("modelopt",) if modelopt.installed() else ()
PACKAGES = ("autoprune", "torch", "ray", "optuna", "torch-pruning")
PACKAGES += ("nvidia-modelopt",) if modelopt.installed() else ()
OUT = harness.RESULTS / "search"


def main() -> None:
    given = _arguments()
    jobs = QUICK if given.quick else {name: FULL[name] for name in given.tasks}
    out = given.out or (OUT / "quick" if given.quick else OUT)
    out.mkdir(parents=True, exist_ok=True)
    try:
        for job in jobs.values():
            _bench(job, given, out)
    except AutopruneError as error:
        sys.exit(str(error))
    _show(out)


def _bench(job: Job, given: argparse.Namespace, out: Path) -> None:
    """Every run of one task that is not in the table yet."""
    found = Table(out / "trials.csv")
    with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
        ready = _ready(job, Path(folder), found)
        _check(ready, found)
        for seed in given.seeds:
            for method in given.methods:
                _once(ready, found, method, seed, again=given.again)
            if given.factor > 1 and job.task in (*SMALL, *QUICK):
                _once(ready, found, "ray_optuna", seed, factor=given.factor)
        if given.long:
            long.run(
                ready,
                found,
                out / "long.csv",
                methods=given.methods,
                seeds=given.seeds,
                levels=given.long_levels,
                epochs=given.long_epochs,
                circumstances=harness.circumstances(PACKAGES),
                say=_say,
            )


def _ready(job: Job, folder: Path, found: Table) -> Setup:
    """The setup, with the arithmetic of the rows that are there, or timed now."""
    setup.threads()
    there = found.of(job.task)
    plain = setup.prepare(job, folder, precision=Precision())
    if there.empty:
        return replace(plain, precision=choose(plain.task.task, plain.dense))
    return replace(plain, precision=setup.named(there.iloc[0].precision))


def _check(ready: Setup, found: Table) -> None:
    """Rows of other weights or sizes are not comparable."""
    for column, value in (("dense", ready.weights_hash), ("setting", ready.setting)):
        other = found.of(ready.job.task)
        if not other.empty and set(other[column]) != {value}:
            sys.exit(
                f"{found.path}: {ready.job.task} was run with {column} {other.iloc[0][column]}, "
                f"now it is {value} · write elsewhere with --out, or remove these rows"
            )


def _once(
    ready: Setup,
    found: Table,
    method: str,
    seed: int,
    *,
    factor: float = 1.0,
    again: bool = False,
) -> None:
    """One run, its front's members tested, and its rows on disk."""
    name = method if factor == 1.0 else f"{method} x{factor:g}"
    if found.has(ready.job.task, name, seed) and not again:
        _say(f"{ready.job.task}, {name}, seed {seed}: there already")
        return
    budget, clock = ready.budget(factor), Clock()
    for left in ("models", searched.SEARCH, "tune"):
        shutil.rmtree(ready.folder / left, ignore_errors=True)
    with meter.metered(ready.counts, type(ready.dense)):
        tried = METHODS[method](ready, seed, budget)
    wall_s, passes = clock(), meter.total(ready.counts)
    run = {
        "task": ready.job.task,
        "method": name,
        "seed": seed,
        "factor": factor,
        "budget": budget,
        "run_spent": passes.spent(ready.dense_macs),
        "run_samples": passes.samples,
        "run_weighted": passes.weighted(ready.dense_macs),
        "run_wall_s": wall_s,
        **_circumstances(ready),
    }
    rows = table.rows(ready, tried, run, budget)
    found.add(rows)
    points = [(row["macs_share"], row["test_accuracy"]) for row in rows if row["front"]]
    _say(
        f"{ready.job.task}, {name}, seed {seed}: hypervolume {table.volume(points):.4f} (test), "
        f"{sum(bool(row['counted']) for row in rows)} trials, "
        f"{run['run_spent'] / budget:.0%} of the compute, {wall_s / 60:.1f} min"
    )


def _circumstances(ready: Setup) -> dict[str, object]:
    dense = _dense_accuracy(ready)
    return {
        "setting": ready.setting,
        "dense": ready.weights_hash,
        "dense_macs": ready.dense_macs,
        "dense_val": dense["val"],
        "dense_test": dense["test"],
        "precision": setup.arithmetic(ready.precision),
        **harness.circumstances(PACKAGES),
    }


@functools.cache
def _dense_accuracy(ready: Setup) -> dict[str, float]:
    task = ready.task.task
    return {split: task.evaluate(ready.dense, split)[task.metric] for split in ("val", "test")}


def _show(out: Path) -> None:
    """Make table and picture anew from what is on disk."""
    found = Table(out / "trials.csv")
    words = text.markdown(found, long.rows(out / "long.csv").read())
    (out / "summary.md").write_text(words, encoding="utf-8")
    print(words)
    print(f"wrote {picture.write(found, out / 'fronts.html', out / 'fronts.png')}")


def _say(note: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {note}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="the digits task at tiny sizes")
    parser.add_argument("--tasks", nargs="+", choices=list(FULL), default=list(FULL))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2; quick: 0 1")
    parser.add_argument("--again", action="store_true", help="replace the methods' runs")
    parser.add_argument(
        "--factor", type=float, default=1.0, help="the plain loop with so much more compute too"
    )
    parser.add_argument("--long", action="store_true", help="long recovery of front members")
    parser.add_argument("--long-epochs", type=float, default=20.0)
    parser.add_argument(
        "--long-levels", nargs="+", type=float, default=long.AT, help="shares of the MACs"
    )
    parser.add_argument("--out", type=Path, help=f"default: {OUT}")
    given = parser.parse_args()
    if "modelopt" in given.methods and not modelopt.installed():
        parser.error("modelopt is not installed · pip install '.[test,bench]'")
    given.seeds = given.seeds or ([0, 1] if given.quick else [0, 1, 2])
    return given


if __name__ == "__main__":
    main()
