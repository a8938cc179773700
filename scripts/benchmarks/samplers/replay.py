"""What a trial answers without training: a model of recorded trials.

Recorded are the trials of `results/search/trials.csv` whose units went by l2 without repair: these
widths are spread widely (uniform, global L2, FastNAS, random and TPE), so that the model tells
widths of equal cost apart, which it hardly does for repaired ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from autoprune._search.plan import Limits, Plan
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.cost.model import CostModel
from autoprune.graph import PruningGraph, trace
from autoprune.pareto import Objective
from autoprune.space import FittedSpace, SearchSpace
from autoprune.tasks.load import load_task
from scripts.benchmarks.harness import RESULTS, ROOT
from scripts.benchmarks.search.setup import FULL, MAX_RATIO, MOST

Array = NDArray[np.float64]

RECORDED = RESULTS / "search" / "trials.csv"
_TREES = 100
_FOLDS = 6
_ABOVE = 1.02  # accuracies are fitted as log(1.02 - accuracy), like the search's own surrogate


@dataclass(frozen=True)
class Problem:
    """A task to search: the costs of its candidates, and what a trial of one answers."""

    task: str
    costs: CostModel
    accuracy: Callable[[Candidate], float]

    def plan(self, sampler: str, seed: int, trials: int) -> Plan:
        """Ratios of all groups, for multiply-accumulates."""
        space = SearchSpace.parse(
            {"ratios": {"max": MAX_RATIO}, "importance": "l2", "repair": False}
        )
        return Plan(
            space=FittedSpace.of(space, self.costs.graph.sizes()),
            price=self.costs.cost,
            dense=self.costs.dense,
            budget=Budget.parse({"macs": f"{MOST:.0%}"}),
            objectives=(Objective("accuracy", "maximize"), Objective("macs")),
            reference=(0.5, self.costs.dense.get("macs")),
            limits=Limits(trials),
            epochs=1.0,
            rungs=0,
            sampler=sampler,
            seed=seed,
        )


@dataclass(frozen=True)
class Recorded:
    """`widths`, multiply-accumulates and accuracy of the trials; `runs` say which belong together.

    `rows` are the logs of the widths in the order of `groups`, then that of the cost share.
    """

    groups: tuple[str, ...]
    rows: Array
    accuracies: Array
    runs: tuple[str, ...]

    @staticmethod
    def of(task: str) -> Recorded:
        """The complete trials without repair, all of one recipe."""
        table = pd.read_csv(RECORDED, low_memory=False)
        table = table[(table.task == task) & (table.state == "complete")]
        candidates = [Candidate.from_dict(json.loads(text)) for text in table.candidate]
        wanted = [
            (it.selection.importance, it.selection.repair, it.recovery.lr) == ("l2", False, 0.03)
            for it in candidates
        ]
        found = table[wanted]
        widths = [
            it.architecture.widths for it, is_one in zip(candidates, wanted, strict=True) if is_one
        ]
        groups = tuple(sorted(widths[0]))
        rows = [_row(groups, it, share) for it, share in zip(widths, found.macs_share, strict=True)]
        runs = tuple(starmap("{} {}".format, zip(found.method, found.seed, strict=True)))
        return Recorded(groups, np.array(rows), found.val_accuracy.to_numpy(), runs)

    @property
    def targets(self) -> Array:
        return np.asarray(np.log(_ABOVE - self.accuracies))

    def model(self) -> ExtraTreesRegressor:
        """Fitted on all trials."""
        return ExtraTreesRegressor(_TREES, random_state=0).fit(self.rows, self.targets)

    def correlations(self) -> dict[str, float]:
        """Rank correlations with trials of other runs than those that the model was fitted on.

        `at_equal_cost` is what is left of both after a cubic in the log of the cost.
        """
        predicted = np.zeros(len(self.rows))
        for known, unseen in GroupKFold(_FOLDS).split(self.rows, groups=self.runs):
            fitted = ExtraTreesRegressor(_TREES, random_state=0)
            fitted.fit(self.rows[known], self.targets[known])
            predicted[unseen] = fitted.predict(self.rows[unseen])
        cost = self.rows[:, -1]
        return {
            "trials": len(self.rows),
            "rank": _rank(predicted, self.targets),
            "of_cost": _rank(-cost, self.targets),
            "at_equal_cost": _rank(_beyond(cost, predicted), _beyond(cost, self.targets)),
        }


def problem(task: str) -> Problem:
    """The task, answered by the model of its recorded trials."""
    costs, recorded = CostModel(_graph(task)), Recorded.of(task)
    model = recorded.model()

    def accuracy(candidate: Candidate) -> float:
        share = costs.cost(candidate.architecture, ("macs",)).get("macs") / costs.dense.get("macs")
        row = _row(recorded.groups, candidate.architecture.widths, share)
        return _ABOVE - math.exp(float(model.predict([row])[0]))

    return Problem(task, costs, accuracy)


def _graph(task: str) -> PruningGraph:
    torch.manual_seed(0)
    loaded = load_task(FULL[task].reference, base=ROOT)
    model = loaded.build_model().eval()
    return trace(model, loaded.example_input(), ignored_layers=loaded.ignored_layers)


def _row(groups: tuple[str, ...], widths: Mapping[str, int], share: float) -> list[float]:
    return [*(math.log(widths[name]) for name in groups), math.log(share)]


def _rank(first: Array, second: Array) -> float:
    return float(spearmanr(first, second).statistic)


def _beyond(cost: Array, values: Array) -> Array:
    return np.asarray(values - np.polyval(np.polyfit(cost, values, 3), cost))
