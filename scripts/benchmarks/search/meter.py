"""What a method spends, counted where it is spent: in the passes through the model.

The unit is one training sample: forward and backward of the candidate in training, whatever its
size. Every other pass (validation, the teacher of distillation, calibration, sensitivity,
screening, re-estimated BatchNorm) counts a third of a sample for as many multiply-accumulates as
one forward pass of the dense model has: a pass of half the model, or through half of its layers,
counts a sixth. Only convolutions and linear layers are counted. Closed-form solutions and the
searcher's own arithmetic are no passes; they are in the wall-clock.

Every trial of every method asks the teacher for each batch: while passes are counted, autoprune
does not reuse answers of earlier trials (`Answers`), which any of the other methods could as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_forward_hook

from autoprune.store import write_text
from autoprune.tasks import Task
from autoprune.tasks.base import Batch, Split
from autoprune.training import Answers

_EVERY_S = 0.5  # how stale the file of a process may be while it trains


@dataclass
class Passes:
    """Training samples, and multiply-accumulates of forward passes in training and elsewhere."""

    samples: int = 0
    training_macs: float = 0.0
    other_macs: float = 0.0

    def __add__(self, more: Passes) -> Passes:
        return Passes(
            self.samples + more.samples,
            self.training_macs + more.training_macs,
            self.other_macs + more.other_macs,
        )

    def spent(self, dense_macs: float) -> float:
        """In training samples; `dense_macs` are those of one sample through the dense model."""
        return self.samples + self.other_macs / (3.0 * dense_macs)

    def weighted(self, dense_macs: float) -> float:
        """The same with training counted by multiply-accumulates too: dense training samples."""
        return (self.training_macs + self.other_macs / 3.0) / dense_macs


class Meter:
    """Counts the passes of this process through models of one class, and writes them to a file.

    Until it is closed, `Answers` know nothing.
    """

    def __init__(self, folder: Path, model_class: type[nn.Module]) -> None:
        self.passes = Passes()
        self._path = folder / f"passes-{os.getpid()}.json"
        self._class = model_class
        self._written = 0.0
        self._handle = register_module_forward_hook(self._count)
        self._asking = mock.patch.object(Answers, "of", _computed)
        self._asking.start()

    def close(self) -> None:
        self._asking.stop()
        self._handle.remove()
        self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        write_text(self._path, json.dumps(asdict(self.passes)))

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear | _ConvNd) and isinstance(output, Tensor):
            macs = float(output.numel() * module.weight.shape[1:].numel())  # no tensor operation
            if torch.is_grad_enabled():
                self.passes.training_macs += macs
            else:
                self.passes.other_macs += macs
        elif isinstance(module, self._class):
            if torch.is_grad_enabled():
                self.passes.samples += len(inputs[0])
            if time.monotonic() - self._written > _EVERY_S:
                self.write()


def _computed(answers: Answers, call: Any, precision: Any, compute: Callable[[], Any]) -> Any:
    """In the place of `Answers.of`."""
    return compute()


_here: Meter | None = None  # a process has one


def start(folder: Path, model_class: type[nn.Module]) -> Meter:
    """The meter of this process, begun anew."""
    global _here
    if _here is not None:
        _here.close()
    _here = Meter(folder, model_class)
    return _here


@contextmanager
def metered(folder: Path, model_class: type[nn.Module]) -> Iterator[None]:
    """Count this process's passes into `folder`, which is emptied of earlier counts."""
    global _here
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("passes-*.json"):
        file.unlink()
    meter = start(folder, model_class)
    try:
        yield
    finally:
        meter.close()
        _here = None


def total(folder: Path) -> Passes:
    """What all processes have counted into `folder`; this one's count is exact."""
    if _here is not None:
        _here.write()
    found = Passes()
    for file in folder.glob("passes-*.json"):
        found += Passes(**json.loads(file.read_text(encoding="utf-8")))
    return found


class Metered(Task):
    """A task that counts: wherever its model is built, that process's passes go into `folder`.

    `checkpoint` holds the dense weights, so that every process and method has the same ones.
    """

    def __init__(self, task: Task, folder: Path, checkpoint: Path) -> None:
        self.task, self.folder, self.checkpoint = task, folder, checkpoint
        self.metric, self.direction = task.metric, task.direction
        self.ignored_layers, self.num_heads = task.ignored_layers, task.num_heads

    def build_model(self) -> nn.Module:
        model = self.task.build_model()
        if _here is None:
            start(self.folder, type(model))
        return model

    def example_input(self) -> Any:
        return self.task.example_input()

    def train_loader(self, seed: int) -> Iterable[Batch]:
        return self.task.train_loader(seed)

    def val_loader(self) -> Iterable[Batch]:
        return self.task.val_loader()

    def test_loader(self) -> Iterable[Batch]:
        return self.task.test_loader()

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        return self.task.outputs(model, batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch)

    def distillation_loss(self, student_out: Any, teacher_out: Any) -> Tensor:
        return self.task.distillation_loss(student_out, teacher_out)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        found = self.task.evaluate(model, split)
        if _here is not None:
            _here.write()
        return found


def planned(
    *, steps: int, batch: int, distilled: bool, macs_share: float, checked: Mapping[str, int]
) -> float:
    """What a trial of `steps` will spend: training, the dense teacher, and the samples `checked`.

    >>> planned(steps=10, batch=6, distilled=True, macs_share=0.5, checked={"val": 60})
    90.0
    """
    trained = steps * batch
    teacher = trained / 3.0 if distilled else 0.0
    return trained + teacher + macs_share * sum(checked.values()) / 3.0
