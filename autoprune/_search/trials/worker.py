"""What a worker process (a Ray actor) holds: task, dense model, graph and calibration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune._search.state.messages import Conversion, Report
from autoprune._search.trials.cluster import Delivery
from autoprune._search.trials.evaluations import evaluations
from autoprune._search.trials.trainable import Spec
from autoprune.architecture import FLOAT32, INT8
from autoprune.cost_fields import FILE
from autoprune.errors import AutopruneError, TaskError
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning.compensate import Calibration
from autoprune.quantization import compared, saved, twin_of
from autoprune.store import INT8_FILE, QuantizationSettings, RunFolder, pack, recipe_of
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of
from autoprune.tasks.load import built
from autoprune.tasks.primitives import limit_kept_operations
from autoprune.training import Answers, Precision, RecoveryRun
from autoprune.training.rng import untrained

_LOG = logging.getLogger(__name__)


@dataclass
class WorkerContext:
    """Task, dense model, graph and calibration, shared by all trials of a worker.

    The dense model is sent as its `weights` and built by the task in each worker. `milestones` are
    the epochs of the evaluations (see `evaluations`), the last one the end. Finished models are
    saved into the run folder `path`, in a cluster by `delivery`; `task_reference` and `task_args`
    go into their recipes. `precisions` are those in which a finished model is wanted. With `sized`
    the last entry of its history has the size of its file: packed, or in int8 the ONNX file.
    `scores` are the importance `obs` of the dense model by `calibration`.
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
    precisions: tuple[str, ...] = (FLOAT32,)
    delivery: Delivery | None = None
    sized: bool = False
    scores: Mapping[str, torch.Tensor] | None = None
    dense: nn.Module | None = field(default=None, init=False)
    answers: Answers = field(default_factory=Answers, init=False)

    def prepare(self) -> None:
        """Set the number of threads and build the dense model.

        Raises TaskError where that fails, or gives a model of another structure.
        """
        torch.set_num_threads(self.threads)
        dense = built(self.task)
        limit_kept_operations(dense)
        self._check_structure(dense)
        dense.load_state_dict(dict(self.weights), strict=True)
        self.dense = dense.to(self.device).eval()

    def _check_structure(self, dense: nn.Module) -> None:
        found = {name: tuple(value.shape) for name, value in dense.state_dict().items()}
        first = {name: tuple(value.shape) for name, value in self.weights.items()}
        for name in {**first, **found}:
            got, before = found.get(name, "none"), first.get(name, "none")
            if got != before:
                raise TaskError(
                    f"{name_of(self.task)}.build_model must give the same structure at every call, "
                    f"got {name} of shape {got}, before {before}"
                )

    def start(self, spec: Spec) -> RecoveryTrial:
        """Begin a trial."""
        return RecoveryTrial(self, spec)


class RecoveryTrial:
    """One candidate's `RecoveryRun`, advanced from evaluation to evaluation."""

    def __init__(self, context: WorkerContext, spec: Spec) -> None:
        """Create the run; nothing is trained yet."""
        self._context, self._spec = context, spec
        self._artifact: str | None = None
        self._metrics: Mapping[str, float] | None = None
        self._conversion: Conversion | None = None
        assert context.dense is not None, "prepare comes before start"
        dense = context.dense
        if spec.scratch:
            dense = untrained(context.task, spec.seed).to(context.device)
        self._run = RecoveryRun(
            context.task,
            dense,
            context.graph,
            spec.candidate,
            epochs=context.milestones[-1],
            seed=spec.seed,
            calibration=context.calibration,
            scores=None if spec.scratch else context.scores,
            device=context.device,
            precision=context.precision,
            teacher=context.dense,
            answers=context.answers,
        )

    @property
    def finished(self) -> bool:
        """Whether all training is done."""
        return self._run.finished

    def advance(self) -> None:
        """Train to the next evaluation; a finished model is saved."""
        points = evaluations(self._context.milestones, self._spec.candidate)
        ahead = [point for point in points if point > self._run.epoch + 1e-6]
        target = ahead[0] if ahead else points[-1]
        self._run.advance(target - self._run.epoch)
        if self._run.finished:
            self._finish()

    def report(self, error: str | None = None) -> Report:
        """The state now."""
        run = self._run
        return Report(
            epochs=run.epoch,
            metrics=run.metrics if self._metrics is None else self._metrics,
            history=tuple(run.history),
            times=run.times,
            finished=run.finished and error is None,
            artifact=self._artifact,
            error=error,
            optimizer=run.optimizer,
            conversion=self._conversion,
        )

    def save(self, folder: str) -> None:
        """Write what `restore` needs."""
        self._run.save(folder)

    def restore(self, folder: str) -> None:
        """Continue from a saved state."""
        self._run.restore(folder)

    def _finish(self) -> None:
        """Save the trained model, and in its other precision where both are wanted.

        A model that cannot be converted is kept as it is. A baseline from random weights is not
        converted: it is no candidate of the search.
        """
        own = self._spec.candidate.architecture.precision
        saved_model = self._save_model(own)
        self._metrics, self._artifact = saved_model.metrics, saved_model.artifact
        if saved_model.file_bytes is not None:
            self._run.history[-1][FILE] = saved_model.file_bytes
        for other in self._context.precisions if not self._spec.scratch else ():
            if other != own:
                try:
                    self._conversion = self._save_model(other)
                except AutopruneError as error:
                    _LOG.warning("trial %d is not converted: %s", self._spec.number, error)

    def _save_model(self, precision: str) -> Conversion:
        """The trained model in one precision, which is saved."""
        context, spec, run = self._context, self._spec, self._run
        recipe = recipe_of(
            spec.candidate.in_precision(precision),
            run.kept_indices,
            task=context.task_reference,
            task_args=context.task_args,
            example=context.task.example_input(),
            ignored_layers=context.task.ignored_layers,
            num_heads=context.task.num_heads,
        )
        metrics, size = dict(run.metrics), None
        if context.sized and precision == FLOAT32:
            size = float(len(pack(recipe, run.model.state_dict())))

        def quantized(folder: Path) -> None:
            nonlocal size
            settings = QuantizationSettings()
            twin = twin_of(replica(run.model).to("cpu"), context.task, settings, context.threads)
            report = saved(
                twin, compared(twin, context.task, settings), folder / INT8_FILE, folder
            ).int8
            metrics.update(report.validation)
            size = float(report.file_bytes) if context.sized else None

        finish = quantized if precision == INT8 else None
        other = "" if precision == spec.candidate.architecture.precision else f"-{precision}"
        name = f"{spec.number}{other}"
        if context.delivery is not None:
            artifact = context.delivery.save(name, run.model, recipe, finish)
            return Conversion(precision, metrics, artifact, size)
        store = RunFolder(Path(context.path))
        artifact = store.save_model(name, run.model, recipe)
        if finish is not None:
            finish(store.path / artifact)
        return Conversion(precision, metrics, artifact, size)
