"""The dense model as a teacher: its outputs for the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import TrainingError
from autoprune.graph.replica import replica
from autoprune.tasks.base import Task
from autoprune.tasks.failures import named
from autoprune.training.answers import Answers
from autoprune.training.precision import Call, Precision, as_float32
from autoprune.training.rng import preserved


class Teacher:
    """A copy of the dense model in eval mode that gives the distillation targets."""

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        precision: Precision,
        device: torch.device,
        known: Answers | None = None,
    ) -> None:
        """`known` are answers of the same dense model, which are not computed again."""
        self._task, self._precision, self._device = task, precision, device
        self._known = known
        self.model = precision.place(replica(dense), device).eval()
        self.model.requires_grad_(False)

    def answers(self, calls: Sequence[Call]) -> list[Any]:
        """The teacher's output for the inputs of each call that `task.loss` made.

        Raises TrainingError when it made none.
        """
        if not calls:
            raise TrainingError(
                f"{type(self._task).__name__}.loss(model, batch) must call model(...) for "
                "distillation · set recovery.distillation to 0"
            )
        known = self._known
        if known is None:
            return [self._computed(call) for call in calls]
        return [known.of(call, self._precision, partial(self._computed, call)) for call in calls]

    def _computed(self, call: Call) -> Any:
        with preserved(), torch.no_grad(), self._precision.autocast(self._device):
            return as_float32(self.model(*call.args, **call.kwargs))

    def distance(self, calls: Sequence[Call], answers: Sequence[Any]) -> Tensor:
        """The task's distillation loss between the student's outputs and the teacher's answers.

        The mean over the calls.
        """
        with named(f"{type(self._task).__name__}.distillation_loss"):
            losses = [
                self._task.distillation_loss(call.output, answer)
                for call, answer in zip(calls, answers, strict=True)
            ]
        return torch.stack(losses).mean()
