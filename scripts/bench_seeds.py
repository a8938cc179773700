"""What the seeds of a search score right after repair, before any training, at six costs.

    AUTOPRUNE_DATA=... python scripts/bench_seeds.py     # three tasks, ten minutes on one thread

Uniform ratios, global importance, the knapsack of single groups' damages, and what a search takes
of the three: the best, improved by a local search of 16 or 64 steps. The log of the divergence from
the dense model's outputs on validation samples, less is better. Writes
`results/bench/search/seeds.md`.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from bench_search.scored import Scored, scored

from autoprune.cost.targets import device_name
from autoprune.search.ledger import Ledger
from autoprune.search.prepare import relative_worth
from autoprune.search.screening import Screening
from autoprune.search.seeding import seeds
from autoprune.store import RunFolder

OUT = Path(__file__).parents[1] / "results" / "bench" / "search" / "seeds.md"
TASKS = ("fashion_mnist", "spoken_digits", "cifar10")
LEVELS = (0.5, 0.35, 0.25, 0.15, 0.08)  # below the budget
STEPS = (16, 64)
SEED = 0


def main() -> None:
    torch.set_num_threads(1)
    found = pd.DataFrame(row for task in TASKS for row in _rows(task))
    lines = [
        "# Seeds",
        "",
        f"`python scripts/bench_seeds.py`: log divergence right after repair, seed {SEED}; seconds",
        f"are those of the local search. {device_name()}, 1 thread, Python "
        f"{platform.python_version()}, torch {version('torch')}; {date.today().isoformat()}.",
    ]
    for task, part in found.groupby("task", sort=False):
        table = part.drop(columns="task").to_markdown(index=False, floatfmt=".2f")
        lines += ["", f"## {task}", "", table]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


def _rows(name: str) -> Iterator[dict[str, object]]:
    ready = scored(name, levels=LEVELS, seed=SEED)
    score = ready.score(SEED)
    worth = relative_worth(ready.setup.dense, ready.setup.graph, ready.calibration)
    first = seeds(ready.plan, ready.sensitivity(SEED).at, worth)
    least = [proposal for proposal in first if proposal.rivals]
    for level, proposal in zip((0.7, *LEVELS), least, strict=True):
        globally, uniform = proposal.rivals or ()
        row: dict[str, object] = {
            "task": name,
            "MACs": f"{level:.0%}",
            "uniform": score(uniform),
            "global": score(globally),
            "knapsack": score(proposal.candidate),
        }
        rivals = [proposal.candidate, globally, uniform]
        for steps in STEPS:
            began = time.monotonic()
            row[f"{steps} steps"] = _settled(ready, rivals, steps)
            row[f"{steps} steps, s"] = time.monotonic() - began
        yield row


def _settled(ready: Scored, rivals: list, steps: int) -> float:
    """The score that a local search of so many steps reaches."""
    score = ready.score(SEED)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(ready.plan, RunFolder.create(Path(folder) / "run", {}, {}))
        screening = Screening(ready.plan, lambda: score, count=2 * steps)
        found = screening.settle(rivals, ledger, 0)
    assert found is not None, "the rivals could be scored"
    return found[1]


if __name__ == "__main__":
    main()
