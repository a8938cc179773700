"""A model that gets smaller while it is trained, and which dense units it still has."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autoprune import space
from autoprune.candidate import Candidate
from autoprune.graph import PruningGraph
from autoprune.pruning import compensate, importance, surgery
from autoprune.pruning.compensate import Calibration
from autoprune.tasks.base import Batch, Task


class Shrinking:
    """Walks one candidate's sizes: what leaves is chosen, cut out, and what stays is mended.

    `model` starts as a copy of `dense`; its Parameter objects stay the same through all removals.
    `keep` holds, for each group of the candidate, the dense indices that are still there.
    """

    def __init__(
        self, task: Task, dense: nn.Module, graph: PruningGraph, candidate: Candidate, round_to: int
    ) -> None:
        self.task, self.candidate, self.round_to = task, candidate, round_to
        self.model = copy.deepcopy(dense)
        self.graph = graph
        self._dense_sizes = {name: graph.group(name).size for name in candidate.ratios}
        self.keep = {name: tuple(range(size)) for name, size in self._dense_sizes.items()}

    @property
    def is_dense(self) -> bool:
        """Whether nothing has left yet."""
        return all(len(kept) == self._dense_sizes[name] for name, kept in self.keep.items())

    def counts(self, share: float) -> dict[str, int]:
        """Units that stay at `share` of the final ratios, for the groups that lose any by then."""
        wanted = {
            name: space.kept_units(self._dense_sizes[name], ratio * share, self.round_to)
            for name, ratio in self.candidate.ratios.items()
        }
        return {name: count for name, count in wanted.items() if count < len(self.keep[name])}

    def choose(
        self, counts: Mapping[str, int], batches: Sequence[Batch], calibration: Calibration | None
    ) -> dict[str, tuple[int, ...]]:
        """The units (present indices) that stay when each named group goes down to its count."""
        gradients: dict[str, Tensor] | None = None
        if self.candidate.importance == "taylor":
            self.model.eval()
            gradients = importance.accumulate_gradients(self.model, self.task.loss, batches)
        worth = importance.scores(
            self.model,
            self.graph,
            self.candidate.importance,
            calibration=calibration,
            gradients=gradients,
        )
        return importance.keep_counts(worth, counts)

    def remove(
        self,
        keep: Mapping[str, Sequence[int]],
        batches: Sequence[Batch],
        calibration: Calibration | None,
        *,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Cut out what is not in `keep` (present indices), repair with `calibration` if there is
        one, and re-estimate the BatchNorm statistics.
        """
        before = copy.deepcopy(self.model) if calibration is not None else None
        graph = self.graph
        self.cut(keep, optimizer=optimizer)
        if before is not None and calibration is not None:
            compensate.repair(self.model, before, graph, keep, calibration)
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()):
            with torch.no_grad():
                compensate.reestimate_batchnorm(self.model, batches, forward=self.task.loss)

    def cut(self, keep: Mapping[str, Sequence[int]], *, optimizer: Optimizer | None = None) -> None:
        """Plain surgery; keeps the books of `graph` and `keep`."""
        self.graph = surgery.prune(self.model, self.graph, keep, optimizer=optimizer)
        for name, kept in keep.items():
            self.keep[name] = tuple(self.keep[name][unit] for unit in kept)
