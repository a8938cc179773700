"""The dense model as a teacher: its outputs for the same batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoprune.errors import TrainingError
from autoprune.graph.replica import replica
from autoprune.tasks.base import Task
from autoprune.training.precision import Call, Precision, as_float32


class Teacher:
    """A copy of the dense model in eval mode that gives the distillation targets."""

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        precision: Precision,
        device: torch.device,
    ) -> None:
        self._task, self._precision, self._device = task, precision, device
        self._model = precision.place(replica(dense), device).eval()
        self._model.requires_grad_(False)

    def distance(self, calls: Sequence[Call]) -> Tensor:
        """The task's distillation loss between the student's outputs and the teacher's.

        The mean over the calls that `task.loss` made. Raises TrainingError when it made none.
        """
        if not calls:
            raise TrainingError(
                f"{type(self._task).__name__}.loss(model, batch) must call model(...) for "
                "distillation · set recovery.distillation to 0"
            )
        losses = [self._task.distillation_loss(call.output, self._answer(call)) for call in calls]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _answer(self, call: Call) -> object:
        with self._precision.autocast(self._device):
            output = self._model(*call.args, **call.kwargs)
        return as_float32(output)
