"""What an actor of a real search holds: task, dense model, graph and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune._search.ledger import Report
from autoprune._search.trainable import Spec
from autoprune.graph import PruningGraph
from autoprune.pruning.compensate import Calibration
from autoprune.store import RunFolder, recipe_of
from autoprune.tasks.base import Task
from autoprune.training import Precision, RecoveryRun


@dataclass
class RecoveryBench:
    """The bench of a real search: task, dense model, graph and calibration, shared by all trials.

    The dense model travels as its `weights` and is built by the task in each actor. `milestones`
    are the epochs of the evaluations, the last one the end. Finished models are saved into the run
    folder `path`; `task_reference` and `task_args` go into their recipes.
    """

    task: Task
    weights: Mapping[str, torch.Tensor]
    graph: PruningGraph
    calibration: Calibration | None
    milestones: tuple[float, ...]
    path: str
    task_reference: str
    task_args: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    precision: Precision | None = None
    dense: nn.Module | None = field(default=None, init=False)

    def prepare(self) -> None:
        """Give this actor its share of the cores, and build the dense model."""
        torch.set_num_threads(self.threads)
        dense = self.task.build_model()
        dense.load_state_dict(dict(self.weights), strict=True)
        self.dense = dense.to(self.device).eval()

    def start(self, spec: Spec) -> RecoveryTrial:
        """Begin a trial."""
        return RecoveryTrial(self, spec)


class RecoveryTrial:
    """One candidate's `RecoveryRun`, walked along the bench's milestones."""

    def __init__(self, bench: RecoveryBench, spec: Spec) -> None:
        """Make the run; nothing is trained yet."""
        self._bench, self._spec = bench, spec
        self._artifact: str | None = None
        assert bench.dense is not None, "prepare comes before start"
        self._run = RecoveryRun(
            bench.task,
            bench.dense,
            bench.graph,
            spec.candidate,
            epochs=bench.milestones[-1],
            seed=spec.seed,
            calibration=bench.calibration,
            device=bench.device,
            precision=bench.precision,
        )

    @property
    def finished(self) -> bool:
        """Whether all training is done."""
        return self._run.finished

    def advance(self) -> None:
        """Train to the next milestone and evaluate; a finished model is saved."""
        ahead = [m for m in self._bench.milestones if m > self._run.epoch + 1e-6]
        target = ahead[0] if ahead else self._bench.milestones[-1]
        self._run.advance(target - self._run.epoch)
        if self._run.finished:
            self._artifact = self._save_model()

    def report(self, error: str | None = None) -> Report:
        """The state now."""
        run = self._run
        return Report(
            epochs=run.epoch,
            metrics=run.metrics,
            history=tuple(run.history),
            times=run.times,
            finished=run.finished and error is None,
            artifact=self._artifact,
            error=error,
            optimizer=run.optimizer,
        )

    def save(self, folder: str) -> None:
        """Write what `restore` needs."""
        self._run.save(folder)

    def restore(self, folder: str) -> None:
        """Go on from a saved state."""
        self._run.restore(folder)

    def _save_model(self) -> str:
        recipe = recipe_of(
            self._spec.candidate,
            self._run.kept_indices,
            task=self._bench.task_reference,
            task_args=self._bench.task_args,
        )
        return RunFolder(Path(self._bench.path)).save_model(
            self._spec.number, self._run.model, recipe
        )
