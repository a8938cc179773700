"""A finished run of a tiny task with two saved models, made without a search."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.graph import trace
from autoprune.pareto import Objective, ParetoFront
from autoprune.pruning.build import build
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace
from autoprune.store import (
    DenseReport,
    FrontReport,
    GroupInfo,
    Groups,
    RunFolder,
    RunState,
    SearchPlan,
    recipe_of,
)
from autoprune.tasks.base import Task

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
KEPT = {0: (0, 1, 2, 5, 6, 7), 1: (3, 4)}  # units of the only group, by trial
DENSE_MACS = 4 * 8 + 8 * 3


class Pair(Task):
    """Two linear layers with 8 units between them: group `0`."""

    dense_epochs = 0

    def build_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def example_input(self) -> Tensor:
        return torch.zeros(1, 4)

    def train_loader(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        x = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
        return [(x, torch.arange(12) % 3)]

    def val_loader(self) -> list[tuple[Tensor, Tensor]]:
        return self.train_loader(100)

    def test_loader(self) -> list[tuple[Tensor, Tensor]]:
        return self.train_loader(101)


def model_of(number: int) -> nn.Module:
    """The pruned model of a trial."""
    dense = Pair().build_model().eval()
    graph = trace(dense, Pair().example_input())
    kept = KEPT[number]
    return build(dense, graph, Architecture({"0": len(kept)}), kept_indices={"0": kept}).model


def make(
    folder: Path, place: Path | None = None, accuracies: tuple[float, float] = (0.805, 0.5)
) -> RunFolder:
    """Trial 0 is the better one, trial 1 the smaller one and the knee's equal."""
    config = {"task": "small_run:Pair", "budget": {"macs": "80%"}, "base": str(folder)}
    run = RunFolder.create(place or folder / "run", config, {"torch": torch.__version__})
    space = FittedSpace.of(run.config.space, {"0": 8})
    dense = Cost(params=67, macs=DENSE_MACS, weight_bytes=268)
    budgets = (run.config.budget,)
    run.save_plan(SearchPlan.of(OBJECTIVES, (0.1, float(DENSE_MACS)), budgets, space, dense))
    run.save_dense(DenseReport({"accuracy": 0.81}, dense))
    run.save_groups(Groups((GroupInfo("0", "channel", 8),)))
    records = tuple(_record(run, number, accuracy) for number, accuracy in enumerate(accuracies))
    for record in records:
        run.append(record)
    run.save_front(FrontReport(ParetoFront(OBJECTIVES, records, (0.1, float(DENSE_MACS)))))
    run.save_state(RunState("done", 60.0))
    return run


def _record(run: RunFolder, number: int, accuracy: float) -> TrialRecord:
    width = len(KEPT[number])
    candidate = Candidate(Architecture({"0": width}))
    recipe = recipe_of(
        candidate, {"0": KEPT[number]}, task="small_run:Pair", example=Pair().example_input()
    )
    return TrialRecord(
        number,
        candidate,
        "complete",
        seed=0,
        epochs=2.0,
        metrics={"accuracy": accuracy},
        predicted=Cost(params=8 * width + 3, macs=7 * width, weight_bytes=32 * width + 12),
        artifact=run.save_model(number, model_of(number), recipe),
        origin="tpe",
    )
