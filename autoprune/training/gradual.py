"""A model that is pruned step by step while it trains, and which dense units it still has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.architecture import Architecture
from autoprune.candidate import BY_GRADIENTS, Selection
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning import compensate, importance
from autoprune.pruning.build import narrowed, newly_dropped, shrink, units_of
from autoprune.pruning.compensate import Calibration
from autoprune.pruning.sparsity import Choice, Masks
from autoprune.pruning.weight_importance import method_for
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.on_batches import loss_of


class GradualPruner:
    """Takes one model through a candidate's stages: scores, prunes, repairs.

    `model` starts as a copy of `dense`; its Parameter objects stay the same through all removals.
    `kept_indices` holds, for each group of the graph, the dense units that are still there,
    `patterns` the patterns that weights have by now, and `masks` where these are zero.
    """

    def __init__(
        self, task: Task, dense: nn.Module, graph: PruningGraph, selection: Selection
    ) -> None:
        self.task, self.selection = task, selection
        self.model = replica(dense)
        self.graph = graph
        self._sizes = graph.sizes()
        self.kept_indices = {name: tuple(range(size)) for name, size in self._sizes.items()}
        self.patterns: dict[str, str] = {}
        self.masks: Masks = {}

    @property
    def is_dense(self) -> bool:
        """Whether nothing has been pruned yet."""
        whole = self.graph.sizes() == self._sizes and not self.graph.dropped
        return whole and not self.patterns

    def removes(self, stage: Architecture) -> bool:
        """Whether a stage takes anything away from the model as it is now."""
        smaller = newly_dropped(self.graph, stage) or narrowed(self.graph, stage)
        return bool(smaller) or dict(stage.patterns) != self.patterns

    def choose(
        self,
        stage: Architecture,
        batches: Sequence[Batch],
        calibration: Calibration | None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """The present units that every group that is narrowed by `stage` keeps.

        `scores` are the importance of the units, where it is known.
        """
        name = self.selection.importance
        if scores is None:
            scores = importance.scores(
                self.model,
                self.graph,
                self.task.importance if name == "task" else name,
                calibration=calibration,
                gradients=self._gradients(batches),
                groups=narrowed(self.graph, stage),
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
        """Prune to `stage`, keeping these present units, and repair if that is selected.

        The statistics of batch normalizations are re-estimated on `batches`.
        """
        gradients = self._gradients(batches) if stage.patterns else None
        self.cut(
            stage,
            units,
            calibration=calibration if self.selection.repair else None,
            choice=Choice(
                method_for(self.selection.importance, self.task.weight_importance),
                gradients,
                calibration,
            ),
            optimizer=optimizer,
        )
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()):
            with torch.no_grad():
                compensate.reestimate_batchnorm(
                    self.model, batches, forward=partial(loss_of, self.task)
                )

    def cut(
        self,
        stage: Architecture,
        units: Mapping[str, Sequence[int]],
        *,
        calibration: Calibration | None = None,
        choice: Choice | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Prune to `stage` and update `graph`, `kept_indices`, `patterns` and `masks`."""
        built = shrink(
            self.model,
            self.graph,
            stage,
            kept_indices=units,
            calibration=calibration,
            choice=choice,
            zeros=self.masks,
            optimizer=optimizer,
        )
        self.graph, self.masks = built.graph, built.masks
        self.patterns = dict(stage.patterns)
        for name, kept in built.kept_indices.items():
            self.kept_indices[name] = tuple(self.kept_indices[name][unit] for unit in kept)

    def hold(self, patterns: Mapping[str, str], masks: Masks) -> None:
        """Take up the patterns and masks of a saved run; its weights are loaded afterwards."""
        self.patterns, self.masks = dict(patterns), masks

    def _gradients(self, batches: Sequence[Batch]) -> dict[str, Tensor] | None:
        """The loss's gradients, where the importance needs them."""
        if self.selection.importance not in BY_GRADIENTS:
            return None
        self.model.eval()
        return importance.accumulate_gradients(self.model, partial(loss_of, self.task), batches)
