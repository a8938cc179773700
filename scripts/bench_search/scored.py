"""A task of the benchmark with what a search scores its proposals by; no trial is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune._search.plan import Plan
from autoprune._search.score import RepairScore
from autoprune._search.verify import objectives_of
from autoprune.pruning import sensitivity
from autoprune.pruning.calibration import Calibration, calibrate
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.training import Precision
from autoprune.training.batches import sample
from bench_search import searched, setup
from bench_search.setup import FULL, Setup

SAMPLES = 1024  # of the calibration
_SENSITIVITY_SAMPLES = 512


@dataclass(frozen=True)
class Scored:
    """`plan` is a search's, with the benchmark's budget, space and recipe.

    `folder` is the setup's, and goes when this does.
    """

    folder: tempfile.TemporaryDirectory[str]
    setup: Setup
    plan: Plan
    calibration: Calibration

    def score(self, seed: int = 0) -> RepairScore:
        """What proposals are worth right after repair."""
        return RepairScore(
            self.setup.task.task,
            self.setup.dense,
            self.setup.graph,
            self.calibration,
            seed=seed,
            precision=self.setup.precision,
        )

    def sensitivity(self, seed: int = 0) -> Sensitivity:
        """The damage of each group alone."""
        task = self.setup.task.task
        batches = sample(task, seed, samples=_SENSITIVITY_SAMPLES, least=1)
        divergence = sensitivity.divergence(self.setup.dense, batches, forward=task.outputs)
        return sensitivity.measure(self.setup.dense, self.setup.graph, self.calibration, divergence)


def scored(name: str, *, levels: Sequence[float] = (), seed: int = 0) -> Scored:
    """A task as `bench_search.py` runs it, in plain arithmetic."""
    folder = tempfile.TemporaryDirectory(prefix="bench-search-")
    made = setup.prepare(FULL[name], Path(folder.name), precision=Precision())
    made.dense.eval()
    config = searched._config(
        made, seed, made.budget(), importance="obs", repair=True, recipe=False
    )
    task = made.task.task
    calibration = calibrate(
        made.dense,
        sample(task, seed, samples=SAMPLES),
        max_samples=SAMPLES,
        seed=seed,
        forward=task.loss,
    )
    metric = task.evaluate(made.dense, "val")[task.metric]
    plan = Plan(
        space=config.space,
        sizes=made.graph.sizes(),
        price=made.costs.cost,
        dense=made.costs.dense,
        budget=config.budget,
        objectives=objectives_of([task.metric, "macs"], task.metric, task.direction),
        reference=(metric / 2.0, made.dense_macs),
        epochs=made.epochs,
        seed=seed,
        levels=config.budget.lowered([f"{level:.0%}" for level in levels], "levels"),
    )
    return Scored(folder, made, plan, calibration)
