"""What each part of autoprune brings, from the rows of the other benchmarks: one table.

    python -m scripts.benchmarks.ablation

Nothing is trained or measured here. Each line compares two methods that differ in one part, seed by
seed, on test data: the hypervolume after a short recovery (`search`), or the accuracy after a long
one (`equal_cost`, `recipes`), and of whole searches (`samplers.searches`).
`results/ablation/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from autoprune.store import write_text
from scripts.benchmarks import harness
from scripts.benchmarks.equal_cost.table import (
    GROUP,
    at_equal_cost,
    dense_model,
    paired,
    stored_rows,
)
from scripts.benchmarks.harness import RESULTS
from scripts.benchmarks.search.table import points_of, volume

OUT = RESULTS / "ablation" / "README.md"
Line = dict[str, object]
SHOWN = {
    "part": ("part", ""),
    "task": ("task", ""),
    "what": ("measure", ""),
    "without": ("without", ""),
    "with": ("with", ""),
    "seeds": ("seeds", ""),
    "difference": ("difference (95 % interval)", ""),
    "commits": ("of commits", ""),
}
HEAD = """# What each part brings

Paired differences, seed by seed, on test data, of methods that differ in one part. The rows are
those of [search](../search/README.md) (hypervolume over multiply-accumulates, times 100, after a
few epochs; costs below 6 % count as 6 %, so it is at most 94; over bytes, at most 100: [whole
searches](../samplers/searches.md)), [equal cost](../equal_cost/README.md) and
[recipes](../recipes/README.md) (accuracy in % at a share of the dense model's cost, after the
epochs that are named). One seed has no interval. Methods that chose the same model, or one above
the wanted share, are not compared; parts without rows stand at the end. `autoprune_ratios` is the
search with a ratio for each group, the default until 30 November; its rows are older than those of
`autoprune`, so their difference is also that of all else that changed. From scratch, the higher of
two rates was best in every seed, so a better one may lie beyond. `find_lr` tries a quarter, half,
one and two times the rate of the length, and took a quarter, the lowest, in each seed; the parts at
`lr x 0.25` are compared at that rate. The decay of averaged weights was not reached in so few
steps. `_recipe` begins at the rate 0.01, `autoprune_ratios` has 0.03 throughout: their difference
is not that of searching the rate, for which `_lr0.01` is meant. Where the rows of the two are of
different commits these are named at the end: the difference is then also that of what else changed
between them. For the keyword net 0.02 and 0.03 are high rates ([recipes](../recipes/README.md)); at
the better one of 0.003 and 0.01 int8 brings as much as there. In the example of [voice
commands](../examples/voice_commands/README.md), at 0.014, removal in steps brings less than the
spread of three seeds.
Made by `python -m scripts.benchmarks.ablation`.
"""


@dataclass(frozen=True)
class Part:
    """A part of autoprune, and the methods with and without it."""

    name: str
    without: str
    other: str


SEARCH = (
    Part("order and repair", "uniform", "uniform_repaired"),
    *(
        part
        for search in ("autoprune_ratios", "autoprune")
        for part in (
            Part("order alone", f"{search}_l2", search),
            Part("search of widths", "uniform_repaired", search),
            Part("costs told to the search", search, f"{search}_levels"),
            Part("first rate 0.01 for 0.03, then searched", search, f"{search}_recipe"),
            Part("rate and distillation searched", f"{search}_lr0.01", f"{search}_recipe"),
        )
    ),
    Part("search by the allocator's variables", "autoprune_ratios", "autoprune"),
)
EQUAL_COST = (
    Part("allocation of widths", "uniform", "channels"),
    Part("allocation of widths", "random, best of 8", "channels"),
    Part("dropped blocks", "channels", "channels + blocks"),
    Part("a larger model to start from", "smaller dense model", "channels + blocks"),
    Part("dense model's weights", "from scratch", "uniform"),
    Part("dense model's weights", "from scratch, double epochs", "uniform"),
    Part("allocation of widths", "global l2", "channels"),
    Part("allocation of widths", "FastNAS rule", "channels"),
    Part("allocation of widths", "knapsack of units", "channels"),
    Part("search for one allocation", "channels + blocks + int8", "search"),
    Part("recipe that the search found", "search", "search, its recipe"),
    Part("recipe that the search found", "uniform", "uniform, search's recipe"),
    Part("recipe that the search found", "channels", "channels, search's recipe"),
    Part("int8", "uniform", "uniform + int8"),
    Part("int8", "channels", "channels + int8"),
    Part("allocation of widths in int8", "uniform + int8", "channels + int8"),
)
BOTH = ", with moves and local search"  # of versions that had them
SAMPLERS = (
    Part("sampler (TPE) and screening", "random", "tpe, screened"),
    Part(
        "allocator's variables for ratios", f"tpe, screened, ratios{BOTH}", f"tpe, screened{BOTH}"
    ),
    Part("sampler: Gaussian process for random draws", "random", "gp"),
    Part("sampler: TPE for random draws", "random", "tpe"),
    Part("sampler: Gaussian process for TPE", "tpe", "gp"),
    Part("sampler: moves and expected improvement for TPE", "tpe", "front"),
    Part("screening of proposals", "tpe", "tpe, screened"),
    Part(
        "sampler: Gaussian process for TPE, screened", f"tpe, screened{BOTH}", f"gp, screened{BOTH}"
    ),
    Part("moves in screening", "tpe, screened", "tpe, screened, with moves"),
    Part("local search of first candidates", "tpe, screened", "tpe, screened, with local search"),
    Part("rungs", f"tpe, screened{BOTH}", f"tpe, screened, rungs{BOTH}"),
)
PLAIN, QUARTER = "plain", "lr x 0.25"
RECIPES = (
    Part("distillation", "no distillation", PLAIN),
    Part("removal in steps", PLAIN, "in steps"),
    Part("attention maps, best on validation", PLAIN, "features 50"),
    Part("attention maps, weaker", PLAIN, "features 10"),
    Part("removal in steps, attention maps", PLAIN, "in steps, features 10"),
    Part("rate found for the length", PLAIN, "find_lr"),
    Part("averaged weights", PLAIN, "ema 0.99"),
    Part("mixup", PLAIN, "mixup 0.2"),
    Part("label smoothing", PLAIN, "label smoothing 0.1"),
    *(
        Part(f"{name}, at a quarter of the rate", QUARTER, f"{QUARTER}, {recipe}")
        for name, recipe in (
            ("removal in steps", "in steps"),
            ("attention maps", "features 10"),
            ("removal in steps, attention maps", "in steps, features 10"),
        )
    ),
)


def main() -> None:
    """Write the table anew, and print it."""
    harness.parser(__doc__).parse_args()
    lines = [*searches(), *whole_searches(), *equal_costs(), *recipes()]
    lines += not_run((*SEARCH, *SAMPLERS, *EQUAL_COST, *RECIPES), lines)
    text = f"{HEAD}\n{harness.table(pd.DataFrame(lines), SHOWN)}\n"
    write_text(OUT, text)
    print(text)


def not_run(parts: Iterable[Part], lines: Sequence[Line]) -> list[Line]:
    """A line for each part that no line is of."""
    known = {line["of"] for line in lines}
    return [lacking(part, None, None, "not run") for part in parts if part not in known]


def lacking(part: Part, task: str | None, what: str | None, why: str) -> Line:
    """A line without a comparison."""
    about = {"of": part, "part": part.name, "task": task, "what": what}
    return {**about, "without": part.without, "with": part.other, "seeds": None, "difference": why}


def searches() -> Iterator[Line]:
    """Hypervolume on test after the short recovery."""
    trials = pd.read_csv(RESULTS / "search" / "trials.csv")
    earlier = trials.versions.str.extract(
        r"commit (\w+)", expand=False
    )  # a column of its own since
    volumes = pd.DataFrame(
        {
            **{"task": task, "method": method, "seed": seed, "value": 100 * volume(points)},
            "commit": run.commit.fillna(earlier).iloc[0],
        }
        for (task, method, seed), run in trials.groupby(["task", "method", "seed"])
        if (points := points_of(run, "test_accuracy"))
    )
    for part in SEARCH:
        for task, rows in volumes.groupby("task"):
            yield from line(part, str(task), "hypervolume, short", rows)


SEARCHES = "hypervolume over bytes, 32 trials of 1 epoch, allocator's variables unless named"
COSTS = {
    **{"weight_bytes": "bytes", "latency_ms": "latency"},
    **{"file_bytes": "the file", "peak_memory_bytes": "peak memory"},
}


def equal_costs() -> Iterator[Line]:
    """Test accuracy after full training, at equal bytes or latency."""
    rows = stored_rows().read().assign(value=lambda found: 100 * found.test_accuracy)
    for (task, cost, share, epochs, rates, _, dense), group in rows.groupby(GROUP):
        named, tried = COSTS[str(cost)], str(rates).strip("[]").replace(", ", " or ")
        for part in EQUAL_COST:
            pair = [group[group.method == name] for name in (part.without, part.other)]
            if any(rows.empty for rows in pair):
                continue
            what = f"accuracy at {share:.0%} of {named}, {epochs:g} epochs, rate {tried}"
            what += f", dense model of {dense_model(dense)}" if dense else ""
            if same_models(*pair):
                yield lacking(part, str(task), what, "the same model")
            elif not at_equal_cost(*pair):
                yield lacking(part, str(task), what, "not at equal cost")
            else:
                yield from line(part, str(task), what, group)


def same_models(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two methods chose the same architecture: its training is compared with itself."""
    what = ["precision", "dropped", "macs_share", "file_bytes", "lr", "test_accuracy"]
    both = one.merge(other, on="seed", suffixes=("", "_other"))
    return not both.empty and all((both[it] == both[f"{it}_other"]).all() for it in what)


def whole_searches() -> Iterator[Line]:
    """Hypervolume over bytes of searches with other samplers."""
    file = RESULTS / "samplers" / "searches.csv"
    if not file.is_file():
        return
    rows = pd.read_csv(file).rename(columns={"variant": "method"})
    rows = rows.assign(value=100 * rows.test)
    for part in SAMPLERS:
        yield from line(part, "keywords", SEARCHES, rows)


def recipes() -> Iterator[Line]:
    """Test accuracy of one architecture after other trainings."""
    rows = pd.read_csv(RESULTS / "recipes" / "rows.csv").rename(columns={"recipe": "method"})
    rows = rows.assign(value=100 * rows.test_accuracy)
    for (task, share, epochs), group in rows.groupby(["task", "share", "epochs"]):
        for part in RECIPES:
            what = f"accuracy at {share:.0%} of bytes, {epochs:g} epochs"
            yield from line(part, str(task), what, group)


def line(part: Part, task: str, what: str, rows: pd.DataFrame) -> Iterator[Line]:
    """The paired comparison of a part, where a seed has both methods."""
    without, other = (rows[rows.method == name] for name in (part.without, part.other))
    both = other.merge(without, on="seed", suffixes=("", "_without"))
    if both.empty:
        return
    yield {
        "of": part,
        "part": part.name,
        "task": task,
        "what": what,
        "without": f"{both.value_without.mean():.1f} ({part.without})",
        "with": f"{both.value.mean():.1f} ({part.other})",
        "seeds": str(len(both)),
        "difference": paired((both.value - both.value_without).to_numpy()),
        "commits": commits(without, other),
    }


def commits(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """The versions of both methods' rows, where they are not the same."""
    found = [
        "/".join(sorted(set(rows.commit.dropna()))) if "commit" in rows else ""
        for rows in (one, other)
    ]
    return "" if found[0] == found[1] else " and ".join(found)


if __name__ == "__main__":
    main()
