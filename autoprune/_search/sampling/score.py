"""The score of a candidate before any training, in well under a second."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.candidate import BY_GRADIENTS, OBS, Candidate
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning import importance, sensitivity
from autoprune.pruning.build import build
from autoprune.pruning.compensate import Calibration, reestimate_batchnorm
from autoprune.pruning.sparsity import Choice
from autoprune.pruning.threads import threads_of
from autoprune.pruning.weight_importance import method_for
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.batch_forms import LABELS
from autoprune.tasks.on_batches import loss_of, outputs_of
from autoprune.training.batches import sample
from autoprune.training.precision import Precision, watched
from autoprune.training.rng import derive, preserved

SLICE = 256  # validation samples of one score
STATISTICS = 128  # training samples that re-estimate batch normalizations where nothing is repaired
NO_DIVERGENCE = 1e-6  # smaller divergences count as equal


class Score(Protocol):
    """Scores a candidate before training: the log of a divergence, less is better.

    `samples` is how many the smaller model processed for the last score, `dense_samples` how many
    the dense model has processed so far.
    """

    samples: int
    dense_samples: float

    def __call__(self, candidate: Candidate) -> float:
        """The score; a candidate that raises is dropped."""
        ...


class RepairScore:
    """The log of the divergence from the dense model's outputs right after pruning and repair.

    Importance scores and moments are computed once and shared by all candidates. `dense` is not
    changed; `threads` is the number of CPU threads of one score, `precision` the arithmetic of the
    smaller models' forward passes.
    """

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        graph: PruningGraph,
        calibration: Calibration | None,
        *,
        scores: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        threads: int = 1,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        """Read the samples and run the dense model on them.

        `scores` are the importance `obs` of the dense model, where it is known.
        """
        self._task, self._graph, self._calibration = task, graph, calibration
        self._dense = replica(dense).to(device).eval()
        self._threads, self._device = threads, device
        self._precision = precision or Precision()
        drawn = sample(task, derive(seed, "screening"), samples=STATISTICS, least=1)
        self._statistics = heads([self._precision.batch(b, device) for b in drawn], STATISTICS)
        with preserved():
            found = heads(_validation(task), SLICE)
            slices = [self._precision.batch(batch, device) for batch in found]
            with threads_of(threads):
                self._divergence = sensitivity.divergence(
                    self._dense, slices, forward=partial(outputs_of, task)
                )
        self._scores_by: dict[str, tuple[Mapping[str, Tensor], Choice]] = {}
        if scores is not None:
            self._scores_by[OBS] = scores, Choice(method_for(OBS), None, calibration)
        self._has_batchnorm = any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in dense.modules()
        )
        self._scored = sum(map(_size, slices))
        self.samples, self.dense_samples = 0, float(self._scored)

    def __call__(self, candidate: Candidate) -> float:
        """Build, repair, compare; without repair batch normalizations are re-estimated before."""
        with threads_of(self._threads), preserved():
            selection = candidate.selection
            scores, choice = self._importances(selection.importance)
            small = build(
                self._dense,
                self._graph,
                candidate.architecture,
                scores=scores,
                calibration=self._calibration if selection.repair else None,
                choice=choice,
            ).model
            self._precision.place(small, self._device)
            repaired = selection.repair and self._calibration is not None
            dropped = bool(candidate.architecture.dropped)
            estimated = self._has_batchnorm and (dropped or not repaired)
            with watched(small, self._precision, self._device):
                if estimated:
                    reestimate_batchnorm(
                        small, self._statistics, forward=partial(loss_of, self._task)
                    )
                divergence = self._divergence(small)
        self.samples = self._scored + estimated * sum(map(_size, self._statistics))
        if not math.isfinite(divergence):
            raise ValueError(f"its outputs' divergence is {divergence}")
        return math.log(max(divergence, NO_DIVERGENCE))

    def _importances(self, method: str) -> tuple[Mapping[str, Tensor], Choice]:
        """The importance of every unit, and how single weights are chosen."""
        if method not in self._scores_by:
            gradients = None
            if method in BY_GRADIENTS:
                gradients = importance.accumulate_gradients(
                    self._dense, partial(loss_of, self._task), self._statistics
                )
                self.dense_samples += 3.0 * sum(map(_size, self._statistics))
            scores = importance.scores(
                self._dense,
                self._graph,
                self._task.importance if method == "task" else method,
                calibration=self._calibration,
                gradients=gradients,
            )
            choice = Choice(
                method_for(method, self._task.weight_importance), gradients, self._calibration
            )
            self._scores_by[method] = scores, choice
        return self._scores_by[method]


def heads(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """The first samples of each batch, about `samples` in all, each batch giving equally many.

    A batch whose tensors do not all have the same first dimension is not cut, and no mapping
    without labels: its tensors may refer to one another's rows.

    >>> [len(part) for part in heads([torch.zeros(100), torch.zeros(100), torch.zeros(3)], 30)]
    [10, 10, 3]
    """
    each = math.ceil(samples / max(1, len(batches)))

    def cut(leaf: Any) -> Any:
        return leaf[:each] if isinstance(leaf, Tensor) else leaf

    return [tree_map(cut, batch) if _is_by_sample(batch) else batch for batch in batches]


def _is_by_sample(batch: Batch) -> bool:
    is_own = isinstance(batch, Mapping) and LABELS not in batch
    return not is_own and len(_sizes(batch)) == 1


def _sizes(batch: Batch) -> set[int]:
    """The first dimensions of a batch's tensors; -1 for a tensor without dimensions."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    return {len(leaf) if leaf.dim() else -1 for leaf in leaves}


def _size(batch: Batch) -> int:
    return max(1, *_sizes(batch), 1)


def _validation(task: Task) -> list[Batch]:
    """Validation batches spread over the loader, which may be sorted by class."""
    loader = task.val_loader()
    try:
        step = max(1, len(loader) // 8)  # type: ignore[arg-type]
    except TypeError:
        step = 1
    return list(itertools.islice(loader, 0, 8 * step, step))
