"""What seeds of a search are worth after the benchmark's short recovery, by how they are made.

    AUTOPRUNE_DATA=... python scripts/bench_seeds.py     # three tasks, 40 minutes on one thread

Uniform ratios, global importance, the knapsack of single groups' damages; and the best of the three
improved by a local search, which looks at the score right after repair alone, or at the added
damages of single groups too (as a search does). Validation accuracy at four costs, everything
recovered equally. Rows are appended as they come to `results/bench/search/seeds.csv`; a table of
them is `seeds.md`.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from bench_search.scored import Scored, scored
from bench_search.setup import recover
from bench_search.text import frame

from autoprune._search.ledger import Ledger
from autoprune._search.prepare import relative_worth
from autoprune._search.screening import Screening
from autoprune._search.searcher import Proposal
from autoprune._search.seeding import seeds
from autoprune.candidate import Candidate
from autoprune.cost.targets import device_name
from autoprune.store import RunFolder

OUT = Path(__file__).parents[1] / "results" / "bench" / "search"
TASKS = ("fashion_mnist", "spoken_digits", "cifar10")
LEVELS = (0.5, 0.35, 0.25, 0.15)
SEED, SCREEN = 0, 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = OUT / "seeds.csv"
    for task in given.tasks:
        for row in _rows(task):
            old = pd.read_csv(file) if file.exists() else pd.DataFrame()
            if not old.empty:
                same = (old.task == task) & (old.MACs == row["MACs"]) & (old.seeds == row["seeds"])
                old = old[~same]
            pd.concat([old, pd.DataFrame([row])]).to_csv(file, index=False)
            print(row, flush=True)
    (OUT / "seeds.md").write_text(_table(pd.read_csv(file)), encoding="utf-8")


def _table(rows: pd.DataFrame) -> str:
    lines = [
        "# Seeds",
        "",
        f"`python scripts/bench_seeds.py`: validation accuracy in % after the benchmark's short "
        f"recovery, seed {SEED}.",
        f"{device_name()}, 1 thread, Python {platform.python_version()}, torch {version('torch')}; "
        f"{date.today().isoformat()}.",
    ]
    for task, part in rows.groupby("task", sort=False):
        wide = part.pivot(index="seeds", columns="MACs", values="accuracy").mul(100.0)
        wide = wide.loc[part.seeds.unique(), sorted(wide.columns, reverse=True)]
        lines += ["", f"## {task}", "", frame(wide, 1)]
    return "\n".join(lines) + "\n"


def _rows(task: str) -> Iterator[dict[str, object]]:
    ready = scored(task, levels=LEVELS, seed=SEED)
    damage = ready.sensitivity(SEED).at
    worth = relative_worth(ready.setup.dense, ready.setup.graph, ready.calibration)
    least = [p for p in seeds(ready.plan, damage, worth) if p.rivals][1:]  # below the budget
    for level, proposal in zip(LEVELS, least, strict=True):
        globally, uniform = proposal.rivals or ()
        made = {
            "uniform": uniform,
            "global": globally,
            "knapsack": proposal.candidate,
            "search by score": _settled(ready, proposal, None),
            "search by both": _settled(ready, proposal, damage),
        }
        for name, candidate in made.items():
            run = recover(
                ready.setup,
                candidate,
                epochs=ready.setup.epochs,
                seed=SEED,
                calibration=ready.calibration,
            )
            yield {
                "task": task,
                "MACs": f"{level:.0%}",
                "seeds": name,
                "share": ready.plan.cost(candidate).get("macs") / ready.setup.dense_macs,
                "accuracy": run.metrics[ready.setup.task.metric],
            }


def _settled(
    ready: Scored, proposal: Proposal, damage: Callable[[str, int], float] | None
) -> Candidate:
    """What the search makes of a seed and its rivals."""
    score = ready.score(SEED)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(ready.plan, RunFolder.create(Path(folder) / "run", {}, {}))
        screening = Screening(ready.plan, lambda: score, count=SCREEN, damage=damage)
        found = screening.settle([proposal.candidate, *(proposal.rivals or ())], ledger, 0)
    assert found is not None, "the rivals could be scored"
    return found[0]


if __name__ == "__main__":
    main()
