"""What a training step minimizes: the task's loss with what the recovery adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.candidate import Recovery
from autoprune.errors import TaskError
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.batch_forms import LABELS, logits_of
from autoprune.tasks.on_batches import loss_of
from autoprune.training.distillation import Teacher
from autoprune.training.fake_quantization import fake_quantization
from autoprune.training.features import attention_distance, recorded
from autoprune.training.mixup import mixed, repeated
from autoprune.training.precision import Call, Precision, watched


class Objective:
    """The loss of a model for a training batch.

    (1 - d) ((1 - s) L + s U) + d D + f A, with the weights d of distillation, s of label smoothing
    and f of features. L is the task's loss, of mixed batches with `recovery.mixup`; U the
    cross-entropy of equal probabilities (Szegedy et al., "Rethinking the Inception Architecture for
    Computer Vision", CVPR 2016); D the distance of the outputs from the teacher's, A that of the
    attention maps of `layers` (see `feature_layers`).
    """

    def __init__(
        self,
        task: Task,
        recovery: Recovery,
        precision: Precision,
        device: torch.device,
        *,
        teacher: Teacher | None = None,
        layers: Mapping[str, int] | None = None,
    ) -> None:
        if teacher is None and (recovery.distillation or recovery.features):
            raise ValueError("distillation needs a teacher")
        self._task, self._recovery = task, recovery
        self._precision, self._device = precision, device
        self._teacher, self._layers = teacher, (layers or {}) if recovery.features else {}

    def loss(self, model: nn.Module, batch: Batch, *, int8: bool = False) -> Tensor:
        """A scalar; with `int8`, of the model in simulated int8.

        Raises TaskError or TrainingError where batches or outputs do not fit a setting.
        """
        recovery, teacher = self._recovery, self._teacher
        with (
            fake_quantization(model) if int8 else nullcontext(),
            recorded(model, self._layers) as features,
            watched(model, self._precision, self._device) as calls,
        ):
            loss = self._of_task(model, batch, calls)
        if recovery.label_smoothing:
            share = recovery.label_smoothing
            loss = (1.0 - share) * loss + share * self._uniform(calls)
        if teacher is None:
            return loss
        with recorded(teacher.model, self._layers) as wanted:
            answers = teacher.answers(calls)
        if recovery.distillation:
            weight = recovery.distillation
            loss = (1.0 - weight) * loss + weight * teacher.distance(calls, answers)
        if recovery.features:
            loss = loss + recovery.features * attention_distance(features, wanted, self._layers)
        return loss

    def _of_task(self, model: nn.Module, batch: Batch, calls: list[Call]) -> Tensor:
        if not self._recovery.mixup:
            return loss_of(self._task, model, batch)
        blend = mixed(batch, self._recovery.mixup, type(self._task).__name__)
        first = loss_of(self._task, model, blend.first)
        made = len(calls)
        with repeated(model, calls[:made]):
            second = loss_of(self._task, model, blend.second)
        del calls[made:]  # the same outputs again
        return blend.share * first + (1.0 - blend.share) * second

    def _uniform(self, calls: Sequence[Call]) -> Tensor:
        """The cross-entropy of equal probabilities for all classes, a mean over the calls."""
        found = [logits for call in calls if (logits := _class_logits(call)) is not None]
        if not found or len(found) < len(calls):
            raise TaskError(
                f"recovery.label_smoothing needs (N, C, ...) logits of classes, the model of "
                f"{type(self._task).__name__} gives others · set it to 0"
            )
        return torch.stack([-F.log_softmax(x, dim=1).mean() for x in found]).mean()


def _class_logits(call: Call) -> Tensor | None:
    """The (N, C, ...) logits of a call; None where they are none.

    A model that was given labels may hold the classes of each token last, (N, T, C).
    """
    x = logits_of(call.output)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.shape[1] < 2:
        return None
    return None if LABELS in call.kwargs and x.dim() > 2 else x
