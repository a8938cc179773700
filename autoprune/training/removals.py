"""The removals of a run: which step they come before, what they take away, and how."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune.architecture import Architecture
from autoprune.candidate import BY_ACTIVATIONS, OBS, Candidate, are_same
from autoprune.graph import PruningGraph
from autoprune.pruning import compensate
from autoprune.pruning.compensate import Calibration
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.on_batches import loss_of
from autoprune.training.batches import sample
from autoprune.training.gradual import GradualPruner
from autoprune.training.precision import Precision
from autoprune.training.regularizer import Regularizer, make
from autoprune.training.rng import derive

_SAMPLES = 512  # training samples for statistics in the middle of a run


class Removals:
    """Prunes one model stage by stage, each before a step of its training.

    `milestones` are the steps and what the model is from each on, ascending, without those that
    take nothing more away; `pruner` holds the model. `calibration` is the dense model's, and
    `scores` are the importance `obs` by it: they serve while the model is the dense one; later
    removals collect statistics of their own.
    """

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        graph: PruningGraph,
        candidate: Candidate,
        *,
        steps: int,
        seed: int,
        precision: Precision,
        device: torch.device,
        calibration: Calibration | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._task, self._candidate, self._seed = task, candidate, seed
        self._precision, self._device = precision, device
        self._calibration, self._scores = calibration, scores
        self._dense, self._dense_graph = dense, graph
        self.pruner = GradualPruner(task, dense, graph, candidate.selection)
        last = max(steps - 1, 0)
        stages = {
            min(round(stage.progress * steps), last): stage.architecture
            for stage in candidate.removals
        }
        first, *later = stages.items()
        pairs = zip(stages.values(), later, strict=False)
        gone = {at for before, (at, now) in pairs if are_same(before, now)}
        self.milestones = {at: stage for at, stage in (first, *later) if at not in gone}

    @property
    def arithmetic(self) -> Precision:
        """What the model as it is now can be trained with."""
        return self._precision.suited(self.pruner.model, self._device)

    def place(self) -> None:
        """Bring the model to its device and layout."""
        self.arithmetic.place(self.pruner.model, self._device)

    def ahead(self, step: int) -> list[int]:
        """The milestones after a step."""
        return [at for at in self.milestones if at > step]

    def remove(self, step: int, optimizer: Optimizer | None) -> None:
        """Do what is due before `step`; the optimizer's state shrinks with the weights."""
        stage = self.milestones[step]
        if not self.pruner.removes(stage):
            return
        batches = self._samples(step)
        calibration = self._moments(step, batches, repair=self._candidate.selection.repair)
        units = self._choose(stage, batches, calibration)
        self.pruner.remove(stage, units, batches, calibration, optimizer=optimizer)
        self.place()

    def penalty(self, step: int) -> Regularizer | None:
        """What shrinks the units that are pruned next, from `step` to then; None for nothing."""
        ahead = self.ahead(step)
        if not ahead or self._candidate.recovery.regularizer == 0.0:
            return None
        stage, batches = self.milestones[ahead[0]], self._samples(step)
        keep = self._choose(stage, batches, self._moments(step, batches, repair=False))
        found = self._make(step, ahead[0])
        found.choose(self.pruner.model, self.pruner.graph, keep)
        return found

    def restore(
        self,
        kept_indices: Mapping[str, list[int]],
        dropped: list[str],
        patterns: Mapping[str, str],
        masks: Mapping[str, Tensor],
    ) -> None:
        """Make the model that a saved run had, without its weights."""
        self.pruner = GradualPruner(
            self._task, self._dense, self._dense_graph, self._candidate.selection
        )
        widths = {name: len(units) for name, units in kept_indices.items()}
        self.pruner.cut(Architecture(widths, dropped), kept_indices)
        self.pruner.hold(patterns, dict(masks))

    def restored_penalty(self, saved: Mapping[str, object] | None) -> Regularizer | None:
        """The penalty of a saved run."""
        if not saved:
            return None
        return self._make(0, 1).resume(saved, self.pruner.model, self.pruner.graph)

    def _make(self, begin: int, end: int) -> Regularizer:
        recovery = self._candidate.recovery
        return make(recovery.penalty, recovery.regularizer, begin, end, self._task)

    def _choose(
        self, stage: Architecture, batches: list[Batch], calibration: Calibration | None
    ) -> dict[str, tuple[int, ...]]:
        is_shared = calibration is not None and calibration is self._calibration
        known = self._scores if is_shared and self._candidate.selection.importance == OBS else None
        return self.pruner.choose(stage, batches, calibration, known)

    def _moments(self, step: int, batches: list[Batch], *, repair: bool) -> Calibration | None:
        """The shared calibration while the model is the dense one, then one of its own."""
        if not repair and self._candidate.selection.importance not in BY_ACTIVATIONS:
            return None
        if step == 0 and self.pruner.is_dense and self._calibration is not None:
            return self._calibration
        return compensate.calibrate(
            self.pruner.model, batches, forward=partial(loss_of, self._task)
        )

    def _samples(self, step: int) -> list[Batch]:
        found = sample(self._task, derive(self._seed, "samples", step), samples=_SAMPLES)
        return [self.arithmetic.batch(batch, self._device) for batch in found]
