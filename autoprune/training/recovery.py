"""Pruning-aware training of one candidate, in pieces, with units that are pruned on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.candidate import Candidate
from autoprune.errors import TrainingError
from autoprune.graph import PruningGraph
from autoprune.graph.replica import replica
from autoprune.pruning.compensate import Calibration
from autoprune.store.earlier_names import renamed_entry
from autoprune.tasks.base import Split, Task
from autoprune.tasks.metrics import evaluated
from autoprune.training import checkpoint
from autoprune.training.answers import Answers
from autoprune.training.averaging import MovingAverage
from autoprune.training.batches import BatchStream, total_steps
from autoprune.training.distillation import Teacher
from autoprune.training.features import feature_layers
from autoprune.training.gradual import GradualPruner
from autoprune.training.held_masks import HeldMasks
from autoprune.training.objective import Objective
from autoprune.training.optimizers import Optimization, optimizer_for
from autoprune.training.precision import Precision
from autoprune.training.regularizer import Regularizer
from autoprune.training.removals import Removals
from autoprune.training.rng import derive, preserved, seed_all

_OF_TRAINING = ("epoch", "params", "lr", "file_bytes")  # in an entry beside losses and metrics
_TRAINED = "train_loss"
_LOOK = 16  # steps between two looks at the losses: each look waits for the device


class RecoveryRun:
    """One candidate from the dense weights to its end: remove, repair, train, remove, train ...

    Progress counts optimization steps: `epochs` (may be a fraction) times the batches of
    `task.train_loader`. Each of the schedule's milestones becomes a step, before which units are
    removed, so that the rest of the training is faster. `dense` and `graph` are read, never
    changed. `calibration` is the dense model's, shared by all runs; removals from a model that has
    changed since collect a small one of their own. The number of threads is the caller's.

    >>> from autoprune.architecture import Architecture
    >>> from autoprune.candidate import BY_ACTIVATIONS, Candidate
    >>> from autoprune.graph import trace
    >>> from autoprune.tasks import Task
    >>> class Parity(Task):
    ...     def build_model(self):
    ...         return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    ...     def example_input(self):
    ...         return torch.zeros(1, 4)
    ...     def train_loader(self, seed):
    ...         x = torch.randn(64, 4, generator=torch.Generator().manual_seed(seed))
    ...         return [(x, (x.sum(1) > 0).long())] * 4
    ...     def val_loader(self):
    ...         return self.train_loader(1)
    ...     def test_loader(self):
    ...         return self.train_loader(2)
    >>> task = Parity()
    >>> dense = task.build_model()
    >>> graph = trace(dense, task.example_input())
    >>> half = Candidate(Architecture({"0": 4}))
    >>> run = RecoveryRun(task, dense, graph, half, epochs=1.5, seed=0)
    >>> while not run.finished:
    ...     entry = run.advance(1.0)
    >>> run.model[0].out_features, entry["epoch"]
    (4, 1.5)
    """

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        graph: PruningGraph,
        candidate: Candidate,
        *,
        epochs: float,
        seed: int,
        calibration: Calibration | None = None,
        scores: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
        quantization_aware: float = 0.0,
        teacher: nn.Module | None = None,
        answers: Answers | None = None,
    ) -> None:
        """`quantization_aware` is the share of the steps, the last ones, in simulated int8.

        `teacher` is what is distilled from, by default `dense`; `answers` are what it has answered
        in other runs. `scores` are the importance `obs` of the dense model by `calibration`, where
        it is known.
        """
        if not 0.0 <= quantization_aware <= 1.0:
            raise ValueError(f"quantization_aware must lie in [0, 1], got {quantization_aware}")
        if not 0.0 <= epochs < math.inf:
            raise ValueError(f"epochs must be at least 0 and finite, got {epochs}")
        self.task, self.candidate = task, candidate
        self.epochs, self.seed = epochs, seed
        self.device = torch.device(device)
        self.precision = precision or Precision()
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.times = {"build_s": 0.0, "train_s": 0.0, "evaluate_s": 0.0}
        self._dense, self._dense_graph = dense, graph
        self._taught_by, self._answers = teacher or dense, answers
        self._stream = BatchStream(task, seed)
        self.total_steps = total_steps(epochs, self._stream.length)
        self._removals = Removals(
            task,
            dense,
            graph,
            candidate,
            steps=self.total_steps,
            seed=seed,
            precision=self.precision,
            device=self.device,
            calibration=calibration,
            scores=scores,
        )
        self._int8_from = round((1.0 - quantization_aware) * self.total_steps)
        self._optimization: Optimization | None = None
        self._objective: Objective | None = None
        self._average: MovingAverage | None = None
        self._regularizer: Regularizer | None = None

    @property
    def model(self) -> nn.Module:
        """The model as it is now, on the run's device; with `recovery.ema` the averaged one."""
        return self._average.model if self._average else self._pruner.model

    @property
    def graph(self) -> PruningGraph:
        """The graph of `model` as it is now."""
        return self._pruner.graph

    @property
    def kept_indices(self) -> Mapping[str, tuple[int, ...]]:
        """Group -> the dense model's units that are still there, ascending."""
        return MappingProxyType(self._pruner.kept_indices)

    @property
    def epoch(self) -> float:
        """Epochs trained so far."""
        return self.step / self._stream.length

    @property
    def optimizer(self) -> str:
        """The class of the optimizer that trains, such as `AdamW`; empty before `build`."""
        return self._optimization.name if self._optimization else ""

    @property
    def finished(self) -> bool:
        """Whether every step has been done."""
        return self._optimization is not None and self.step >= self.total_steps

    @property
    def metrics(self) -> dict[str, float]:
        """The validation metrics of the last entry of `history`; empty before the first."""
        last = self.history[-1] if self.history else {}
        others = (*_OF_TRAINING, _TRAINED)
        return {name: value for name, value in last.items() if name not in others}

    def build(self) -> None:
        """Place the model, make the optimizer, and do the removals that come before any training.

        `advance` calls it when it has not been called.
        """
        if self._optimization is not None:
            return
        with self._timed("build_s"), preserved():
            self._optimization = self._prepare()
            self._pass_milestone()

    def advance(self, epochs: float) -> dict[str, float]:
        """Train for `epochs` more (rounded up to whole steps, at most to the end), then validate.

        Returns the new entry of `history`: `epoch`, the validation metrics as `evaluate` names
        them, `params`, and the training loss as `train_loss` (mean over these steps) and `lr`, both
        absent where there were no steps. Raises TrainingError where loss or metric is not finite.
        """
        self.build()
        steps = math.ceil(epochs * self._stream.length - 1e-6)
        stop = self.step + max(1, steps)
        losses, rate = self._train_until(min(stop, self.total_steps))
        entry = {"epoch": self.epoch, **self.evaluate("val")}
        entry["params"] = float(_parameters(self.model))
        if losses:
            entry |= {_TRAINED: sum(losses) / len(losses), "lr": rate}
        self.history.append(entry)
        return entry

    def evaluate(self, split: Split) -> dict[str, float]:
        """The task's metrics of the present model, in float32.

        Raises TrainingError where the task's metric is missing or not finite.
        """
        self.build()
        with self._timed("evaluate_s"), preserved():
            self.model.eval()
            metrics = evaluated(self.task, self.model, split)
        if not math.isfinite(metrics.get(self.task.metric, math.nan)):
            raise TrainingError(
                f"{type(self.task).__name__}.evaluate must give a finite {self.task.metric!r}, "
                f"got {metrics} on {split} after step {self.step}"
            )
        return metrics

    def result(self) -> nn.Module:
        """A copy of the present model to keep: in eval mode, on the CPU, in the plain layout."""
        plain = replica(self.model).to("cpu").eval()
        plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return plain

    def save(self, folder: str | Path) -> None:
        """Write everything that `restore` needs into `folder`: safetensors and JSON, no pickle."""
        self.build()
        assert self._optimization is not None
        state = {
            "step": self.step,
            "kept_indices": {name: list(kept) for name, kept in self.kept_indices.items()},
            "dropped": sorted(self.graph.dropped),
            "patterns": self._pruner.patterns,
            "masks": checkpoint.packed_masks(self._pruner.masks),
            "history": self.history,
            "times": self.times,
            "regularizer": self._regularizer.to_dict() if self._regularizer else None,
        }
        state["averaged"] = self._average.updates if self._average else None
        checkpoint.write(
            Path(folder),
            self._identity(),
            state,
            self._pruner.model,
            self._optimization.optimizer,
            average=self._average.model if self._average else None,
        )

    def restore(self, folder: str | Path) -> None:
        """Resume a saved run of the same candidate, epochs and seed, as if never interrupted.

        Raises StoreError when the folder is missing, damaged, or another run's.
        """
        state = checkpoint.read(Path(folder), self._identity())
        self._removals.restore(
            state["kept_indices"],
            state["dropped"],
            state["patterns"],
            checkpoint.unpacked_masks(state["masks"]),
        )
        self._optimization = self._prepare()
        self._optimization.seek(state["step"])
        updates = state.get("averaged")
        self._average = None if updates is None else self._make_average(updates)
        checkpoint.load(
            Path(folder),
            self._pruner.model,
            self._optimization.optimizer,
            average=self._average.model if self._average else None,
        )
        self.step, self.history, self.times = state["step"], state["history"], state["times"]
        self._regularizer = self._removals.restored_penalty(state["regularizer"])
        self._stream.seek(self.step)
        if any("lr" in entry and _TRAINED not in entry for entry in self.history):
            names = self.evaluate("val")  # the history is of an earlier version
            self.history = [renamed_entry(entry, names) for entry in self.history]

    @property
    def _pruner(self) -> GradualPruner:
        return self._removals.pruner

    def _identity(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate.to_dict(),
            "epochs": self.epochs,
            "seed": self.seed,
            "steps": self.total_steps,
            "int8_from": self._int8_from,
        }

    def _prepare(self) -> Optimization:
        self._removals.place()
        self._objective = self._objective or self._make_objective()
        auto = optimizer_for(self.task, self._dense, self._dense_graph)
        return Optimization(
            self.task,
            self._pruner.model,
            self.candidate.recovery.resolved(auto),
            self.total_steps,
            removals=tuple(self._removals.milestones),
        )

    def _make_objective(self) -> Objective:
        recovery, teacher = self.candidate.recovery, None
        if recovery.distillation or recovery.features:
            known = None if recovery.features else self._answers  # features need its forward pass
            teacher = Teacher(self.task, self._taught_by, self.precision, self.device, known)
        return Objective(
            self.task,
            recovery,
            self.precision,
            self.device,
            teacher=teacher,
            layers=feature_layers(self._dense_graph),
        )

    def _make_average(self, updates: int = 0) -> MovingAverage | None:
        decay = self.candidate.recovery.ema
        return MovingAverage(self._pruner.model, decay, updates) if decay else None

    def _pass_milestone(self) -> None:
        """Prune what is due before the present step, and choose what is pruned next."""
        seed_all(derive(self.seed, "milestone", self.step))
        if self.step in self._removals.milestones:
            self._average = None  # of other shapes, or before the repair
            optimizer = self._optimization.optimizer if self._optimization else None
            self._removals.remove(self.step, optimizer)
            self._average = self._make_average()
        self._regularizer = self._removals.penalty(self.step)

    def _train_until(self, stop: int) -> tuple[list[float], float]:
        """Train to step `stop`, through its milestones; the losses and the last learning rate."""
        losses: list[float] = []
        rate = 0.0
        with preserved():
            while self.step < stop:
                end = min([stop, *self._removals.ahead(self.step)])
                with self._timed("train_s"):
                    rate = self._train_stretch(end, losses)
                if self.step in self._removals.milestones:
                    with self._timed("build_s"):
                        self._pass_milestone()
        return losses, rate

    def _train_stretch(self, end: int, losses: list[float]) -> float:
        """Train to step `end` with one set of sizes; appends to `losses`."""
        assert self._optimization is not None
        assert self._objective is not None
        model = self._pruner.model.train()
        arithmetic, held = self._removals.arithmetic, HeldMasks(model, self._pruner.masks)
        waiting: list[Tensor] = []
        rate = 0.0
        while self.step < end:
            rate = self._optimization.rate
            batch = arithmetic.batch(next(self._stream), self.device)
            seed_all(derive(self.seed, "step", self.step))
            loss = self._objective.loss(model, batch, int8=self.step >= self._int8_from)
            self._optimization.step(loss, held)
            waiting.append(loss.detach())
            if self._regularizer is not None:
                self._regularizer.shrink(self.step)
                held.clear_weights()
            if self._average is not None:
                self._average.update(model)
            self.step += 1
            if len(waiting) == _LOOK or self.step == end:
                losses += self._read(waiting)
                waiting.clear()
        return rate

    def _read(self, waiting: list[Tensor]) -> list[float]:
        """The losses of the last steps as numbers; raises TrainingError at the first bad one."""
        assert self._optimization is not None
        values: list[float] = torch.stack(waiting).tolist()
        for back, value in zip(range(len(values), 0, -1), values, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"training loss must be finite, got {value} at step {self.step - back} of "
                    f"{self.total_steps} · lower recovery.lr (now {self._optimization.peak:g}) "
                    "or set recovery.grad_clip"
                )
        return values

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.times[name] += time.perf_counter() - start


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
