"""A model that is pruned step by step while it trains, and which dense units it still has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.architecture import Architecture
from autoprune.candidate import Selection
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning import compensate, importance
from autoprune.pruning.build import narrowed, newly_dropped, shrink, units_of
from autoprune.pruning.compensate import Calibration
from autoprune.tasks.base import Batch, Task


class GradualPruner:
    """Takes one model through a candidate's stages: scores, prunes, repairs.

    `model` starts as a copy of `dense`; its Parameter objects stay the same through all removals.
    `kept_indices` holds, for each group of the graph, the dense units that are still there.
    """

    def __init__(
        self, task: Task, dense: nn.Module, graph: PruningGraph, selection: Selection
    ) -> None:
        self.task, self.selection = task, selection
        self.model = replica(dense)
        self.graph = graph
        self._sizes = graph.sizes()
        self.kept_indices = {name: tuple(range(size)) for name, size in self._sizes.items()}

    @property
    def is_dense(self) -> bool:
        """Whether nothing has been pruned yet."""
        return self.graph.sizes() == self._sizes and not self.graph.dropped

    def removes(self, stage: Architecture) -> bool:
        """Whether a stage takes anything away from the model as it is now."""
        return bool(newly_dropped(self.graph, stage) or narrowed(self.graph, stage))

    def choose(
        self,
        stage: Architecture,
        batches: Sequence[Batch],
        calibration: Calibration | None,
    ) -> dict[str, tuple[int, ...]]:
        """The present units that every group that is narrowed by `stage` keeps."""
        gradients: dict[str, Tensor] | None = None
        if self.selection.importance == "taylor":
            self.model.eval()
            gradients = importance.accumulate_gradients(self.model, self.task.loss, batches)
        scores = importance.scores(
            self.model,
            self.graph,
            self.selection.importance,
            calibration=calibration,
            gradients=gradients,
        )
        return units_of(self.graph, stage, scores)

    def remove(
        self,
        stage: Architecture,
        units: Mapping[str, Sequence[int]],
        batches: Sequence[Batch],
        calibration: Calibration | None,
        *,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Prune to `stage`, keeping these present units; repair with a calibration.

        The statistics of batch normalizations are re-estimated on `batches`.
        """
        self.cut(stage, units, calibration=calibration, optimizer=optimizer)
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()):
            with torch.no_grad():
                compensate.reestimate_batchnorm(self.model, batches, forward=self.task.loss)

    def cut(
        self,
        stage: Architecture,
        units: Mapping[str, Sequence[int]],
        *,
        calibration: Calibration | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Prune to `stage` and keep the books of `graph` and `kept_indices`."""
        built = shrink(
            self.model,
            self.graph,
            stage,
            kept_indices=units,
            calibration=calibration,
            optimizer=optimizer,
        )
        self.graph = built.graph
        for name, kept in built.kept_indices.items():
            self.kept_indices[name] = tuple(self.kept_indices[name][unit] for unit in kept)
