"""The table of all trials on disk, and what is read from it: fronts, hypervolumes, accuracies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from autoprune.pareto import hypervolume, non_dominated
from scripts.benchmarks.harness import Rows
from scripts.benchmarks.search.setup import MOST, TOLD, Setup, Tried, test_accuracy

REFERENCE = (1.0, 0.5)  # dense cost, 50 % error
LOWEST = TOLD[-1]  # cost that counts
RUN = ["task", "method", "seed"]
SEARCHES = ("autoprune", "autoprune_ratios")  # the search as users get it, and as they got it
Points = Sequence[tuple[float, float]]  # (cost share, accuracy)


def rows(
    setup: Setup, tried: Iterable[Tried], run: Mapping[str, object], budget: float
) -> list[dict[str, object]]:
    """One row a trial; the test split is read here, for the members of the front alone.

    A trial counts when it is complete and had ended when at most `budget` was spent.
    """
    trials = list(tried)
    counted = [t for t in trials if t.accuracy is not None and counts(t, budget)]
    on_front = front([(t.share, float(t.accuracy or 0.0)) for t in counted])
    members = {counted[index].number for index in on_front}
    return [
        {
            **run,
            "trial": t.number,
            "state": t.state,
            "origin": t.origin,
            "counted": counts(t, budget),
            "front": t.number in members,
            "macs_share": t.share,
            "params": t.params,
            "epochs": t.epochs,
            "val_accuracy": t.accuracy,
            "test_accuracy": test_accuracy(setup, t.model) if t.number in members else None,
            "spent": t.spent,
            "wall_s": t.wall_s,
            "train_s": t.train_s,
            "candidate": json.dumps(t.candidate.to_dict()),
            "keep": json.dumps({k: list(v) for k, v in t.keep.items()}) if t.keep else None,
        }
        for t in trials
    ]


def counts(trial: Tried, budget: float) -> bool:
    return trial.state == "complete" and trial.spent <= budget * (1.0 + 1e-9)


def front(points: Points) -> list[int]:
    """The places of the non-dominated points; of equal ones the first.

    >>> front([(0.5, 0.9), (0.5, 0.9), (0.4, 0.8), (0.6, 0.8)])
    [0, 2]
    """
    if not points:
        return []
    turned = [(share, 1.0 - accuracy) for share, accuracy in points]
    places = np.flatnonzero(non_dominated(turned)).tolist()
    return [place for place in places if points.index(points[place]) == place]


def volume(points: Points) -> float:
    """Hypervolume under dense cost and 50 % error, over the 0.5 that no cost and no error would be.

    A cost below the lowest one that methods are told counts as that: nobody gains by models that
    others were not asked for. So the largest value is 0.94.

    >>> volume([(0.5, 0.75)]), volume([(0.2, 0.4)]), volume([])
    (0.25, 0.0, 0.0)
    >>> round(volume([(0.0, 1.0)]), 6)
    0.94
    >>> volume([(0.01, 1.0)]) == volume([(LOWEST, 1.0)])
    True
    """
    turned = [(max(share, LOWEST), 1.0 - accuracy) for share, accuracy in points]
    return hypervolume(turned, REFERENCE) / (REFERENCE[0] * REFERENCE[1])


def at_most(trials: pd.DataFrame, level: float) -> pd.Series | None:
    """The trial with the best validation accuracy at or below a cost; the cheapest of equals."""
    fit = trials[trials.counted & (trials.macs_share <= level + 1e-9)]
    if fit.empty:
        return None
    return fit.sort_values(["val_accuracy", "macs_share"], ascending=[False, True]).iloc[0]


def needed(trials: pd.DataFrame, wanted: float) -> float:
    """The compute at which the validation hypervolume reaches `wanted`; infinite if it does not.

    >>> trials = pd.DataFrame({"state": "complete", "spent": [1.0, 2.0],
    ...                        "macs_share": [0.5, 0.5], "val_accuracy": [0.75, 1.0]})
    >>> needed(trials, 0.25), needed(trials, 0.3), needed(trials, 0.6)
    (1.0, 2.0, inf)
    """
    done = trials[trials.state == "complete"].sort_values("spent")
    points: list[tuple[float, float]] = []
    for row in done.itertuples():
        points.append((row.macs_share, row.val_accuracy))
        if volume(points) >= wanted:
            return float(row.spent)
    return math.inf


def points_of(trials: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    """(cost share, accuracy) of the front's members."""
    members = trials[trials.front]
    return list(zip(members.macs_share, members[column], strict=True))


class Table:
    """`trials.csv`: whole runs only; several processes may add theirs to the same file."""

    def __init__(self, path: Path) -> None:
        self._rows = Rows(path, RUN)
        self.path, self.data = path, self._rows.read()

    def has(self, task: str, method: str, seed: int) -> bool:
        return not self.of(task, method, seed).empty

    def of(self, task: str, method: str | None = None, seed: int | None = None) -> pd.DataFrame:
        found = self.data[self.data.task == task]
        found = found if method is None else found[found.method == method]
        return found if seed is None else found[found.seed == seed]

    def add(self, run: Sequence[Mapping[str, object]]) -> None:
        """Write the rows of a run in the place of an earlier one of that task, method and seed."""
        self._rows.put(*run)
        self.data = self._rows.read()


def summary(table: Table, task: str) -> pd.DataFrame:
    """One row a run: hypervolumes, test accuracies at the levels, and what it spent."""
    found = []
    for (method, seed), trials in table.of(task).groupby(["method", "seed"], sort=False):
        row = {
            "method": method,
            "seed": seed,
            "hv_test": volume(points_of(trials, "test_accuracy")),
            "hv_val": volume(points_of(trials, "val_accuracy")),
        }
        for level in TOLD:
            best = at_most(trials, level)
            row[f"at_{level:.0%}"] = math.nan if best is None else best.test_accuracy
        first = trials.iloc[0]
        row |= {
            "trials": int(trials.counted.sum()),
            "over": int((trials.front & (trials.macs_share > MOST + 1e-9)).sum()),
            "spent": first.run_spent / first.budget,
            "other": 1.0 - first.run_samples / first.run_spent,
            "macs": first.run_weighted / first.budget,
            "wall_min": first.run_wall_s / 60.0,
        }
        found.append(row)
    return pd.DataFrame(found)
