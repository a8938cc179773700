"""Samplers compared, without training: every sampler of `search.sampler` on the same problems.

    python -m scripts.benchmarks.samplers [--seeds 10] [--tasks cifar10] [--samplers tpe front]

The real searcher without screening, 40 trials for each sampler and seed. The first ten candidates
are random ones within the budget, the same for all samplers. What a trial answers: `replay.py`.
Rows, one for each task, sampler and seed: `results/samplers/rows.csv`; runs that are there are not
repeated. Printed: the hypervolume under dense cost and an accuracy of 50 %, over the largest
possible, after 10, 20 and 40 trials, as mean ± 95 % interval over seeds (Student's t), and the
difference to `tpe` of equal seeds likewise.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.trial import FrozenTrial
from scipy import stats

from autoprune._search.initial.proposals import Proposal
from autoprune._search.plan import Plan
from autoprune._search.sampling.moves import random_values
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.study import StudyFile
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.searcher import BudgetedOptunaSearch
from autoprune._search.trials.trainable import SPEC
from autoprune.store import RunFolder
from autoprune.training.rng import derive
from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, Rows
from scripts.benchmarks.samplers.replay import Problem, Recorded, problem
from scripts.benchmarks.search.setup import FULL
from scripts.benchmarks.search.table import volume

SAMPLERS = ("random", "tpe", "gp", "nsga2", "front")
TRIALS, FIRST = 40, 10
AFTER = (10, 20, 40)
PACKAGES = ("autoprune", "torch", "optuna", "scikit-learn", "numpy")
FILE = Rows(RESULTS / "samplers" / "rows.csv", ["task", "sampler", "seed"])


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", choices=list(FULL), default=list(FULL))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    for task in given.tasks:
        made = problem(task)
        for seed in range(given.seeds):
            for sampler in given.samplers:
                if FILE.find(task=task, sampler=sampler, seed=seed).empty:
                    FILE.put({**run(made, sampler, seed), **harness.circumstances(PACKAGES)})
                    print(task, sampler, seed, flush=True)
    show(FILE.read())


def run(made: Problem, sampler: str, seed: int) -> dict[str, object]:
    """The row of one search."""
    plan = made.plan(sampler, seed, TRIALS)
    with tempfile.TemporaryDirectory() as folder:
        started = time.thread_time()
        points = play(plan, made, Path(folder) / "run")
        seconds = time.thread_time() - started
    row: dict[str, object] = {"task": made.task, "sampler": sampler, "seed": seed}
    row |= {f"volume_{count}": volume(points[:count]) for count in AFTER}
    return {**row, "trials": len(points), "groups": len(plan.space.sizes), "seconds": seconds}


def play(plan: Plan, made: Problem, folder: Path) -> list[tuple[float, float]]:
    """The share of the cost and the accuracy of each trial."""
    run = RunFolder.create(folder, {}, {})
    searcher = BudgetedOptunaSearch(plan, Ledger(plan, run), Unwritten(), first(plan))
    points = []
    for number in range(TRIALS):
        spec = searcher.suggest(f"t{number}")
        if not isinstance(spec, dict):
            break
        candidate = spec[SPEC].candidate
        found = made.accuracy(candidate)
        report = Report(metrics={"accuracy": found}, epochs=1.0, finished=True)
        searcher.on_trial_complete(f"t{number}", {REPORT: report})
        points.append((plan.cost(candidate).get("macs") / plan.dense.get("macs"), found))
    return points


class Unwritten(StudyFile):
    """No copy of the study on disk, which takes longer than everything else here."""

    def __init__(self) -> None:
        """There is no file."""

    def trials(self) -> list[FrozenTrial]:
        return []

    def put(self, trial: FrozenTrial) -> None:
        pass

    def flush(self) -> None:
        pass


def first(plan: Plan) -> list[Proposal]:
    """Random candidates within the budget."""
    rng = np.random.default_rng(derive(plan.seed, "first"))
    found: dict[str, Proposal] = {}
    while len(found) < FIRST:
        drawn = plan.space.candidate(random_values(rng, plan.variables.parameters))
        inside = project(drawn, plan)
        if inside is not None:
            found.setdefault(inside.key, Proposal(inside, f"seed:{len(found)}"))
    return list(found.values())


def show(rows: pd.DataFrame) -> None:
    """Print the model's correlations, then the table."""
    for task in dict.fromkeys(rows.task):
        words = ", ".join(f"{k} {v:.3g}" for k, v in Recorded.of(task).correlations().items())
        print(f"{task}: {words}")
    print(f"\n{table(rows)}\n\n{harness.stamp(rows)}")


def table(rows: pd.DataFrame) -> str:
    """A line for each task and sampler."""
    columns = [f"volume_{count}" for count in AFTER]
    lines = []
    for (task, sampler), found in rows.groupby(["task", "sampler"], sort=False):
        line = {"task": task, "sampler": sampler, "seeds": len(found)}
        line |= {name: interval(found[name]) for name in columns}
        theirs = rows[(rows.task == task) & (rows.sampler == "tpe")]
        both = found.merge(theirs, on="seed", suffixes=("", "_tpe"))
        line["ahead"] = interval(both.volume_40 - both.volume_40_tpe)
        line["seconds"] = f"{found.seconds.mean():.1f}"
        lines.append(line)
    titles = {"task": "task", "sampler": "sampler", "seeds": "seeds"}
    titles |= {f"volume_{count}": f"after {count}" for count in AFTER}
    titles |= {"ahead": "after 40, less tpe's", "seconds": "CPU s a search"}
    return harness.table(pd.DataFrame(lines), {name: (it, "") for name, it in titles.items()})


def interval(values: pd.Series) -> str:
    """Mean ± half the 95 % interval of the mean.

    >>> interval(pd.Series([0.1, 0.2, 0.3]))
    '0.2000 ± 0.2484'
    """
    count = len(values)
    half = (
        stats.t.ppf(0.975, count - 1) * values.std() / math.sqrt(count) if count > 1 else math.nan
    )
    return f"{values.mean():.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
