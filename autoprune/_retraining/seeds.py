"""A candidate retrained from the dense weights, once for each seed, and tested at the end."""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.errors import TaskError, UsageError
from autoprune.graph import PruningGraph
from autoprune.pruning.compensate import Calibration
from autoprune.store import (
    DenseTest,
    RetrainingSummary,
    SeedReport,
    Spread,
    read_metrics,
    write_metrics,
)
from autoprune.tasks.base import Task
from autoprune.tasks.failures import name_of, named
from autoprune.tasks.metrics import evaluated
from autoprune.training import Precision, RecoveryRun, checkpoint

_LOG = logging.getLogger(__name__)
OnEntry = Callable[[int, Mapping[str, float]], None]
Convert = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, eq=False)
class SeedResult:
    """One seed's model after its last epoch, in eval mode on the CPU.

    `kept_indices` are the dense model's units that it still has, by group; `test` the metrics of
    the untouched test split, read once, after training; `validation` the last ones of `history`.
    """

    seed: int
    model: nn.Module
    kept_indices: Mapping[str, tuple[int, ...]]
    test: Mapping[str, float]
    validation: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    times: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Retraining:
    """The same candidate trained with several seeds; `dense_test` is the dense model's test."""

    candidate: Candidate
    epochs: float
    runs: tuple[SeedResult, ...]
    dense_test: Mapping[str, float]

    def summary(
        self, number: int, *, measured: Cost | None = None, dense_measured: Cost | None = None
    ) -> RetrainingSummary:
        """The account of trial `number`, with the measured costs of the first model and of dense.

        The standard deviations over the seeds are None for one seed.
        """
        return RetrainingSummary(
            number=number,
            candidate=self.candidate,
            epochs=self.epochs,
            seeds=tuple(run.seed for run in self.runs),
            test=spread([run.test for run in self.runs]),
            validation=spread([run.validation for run in self.runs]),
            dense=DenseTest(dict(self.dense_test), dense_measured),
            measured=measured,
            runs=tuple(
                SeedReport(run.seed, run.test, run.history[-1]["params"], run.history, run.times)
                for run in self.runs
            ),
        )


def retrain(
    task: Task,
    dense: nn.Module,
    graph: PruningGraph,
    candidate: Candidate,
    *,
    epochs: float,
    seeds: Sequence[int],
    calibration: Calibration | None = None,
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
    checkpoints: Path | None = None,
    on_entry: OnEntry | None = None,
    quantization_aware: float = 0.0,
    convert: Convert | None = None,
    finished: Sequence[SeedResult] = (),
) -> Retraining:
    """Train `candidate` from the dense weights with its whole schedule, once for each seed.

    Seeds that are `finished` are not trained or tested again.

    The model is validated after each epoch, and `on_entry(seed, entry)` is told. Nothing is chosen
    on the way: the model is the one after the last step, and only then is the test split read,
    once. With `checkpoints` the state after each epoch is kept there: called again with the same
    arguments, the work goes on where it was interrupted. The last `quantization_aware` of the steps
    simulate int8. Where `convert` makes an int8 model of the trained one, that is what is tested.

    Raises UsageError without seeds or with one twice, TaskError without a test split,
    TrainingError where the loss or a metric is not finite.
    """
    check_seeds(seeds)
    need_test_split(task)  # before hours of training
    known = {one.seed: one for one in finished}
    for seed in seeds:
        if seed in known:
            continue
        run = RecoveryRun(
            task,
            dense,
            graph,
            candidate,
            epochs=epochs,
            seed=seed,
            calibration=calibration,
            device=device,
            precision=precision,
            quantization_aware=quantization_aware,
        )
        folder = checkpoints / f"{candidate.key}-{epochs:g}-{seed}" if checkpoints else None
        _train(run, folder, on_entry)
        known[seed] = _finish(run, folder, convert)
    runs = tuple(known[seed] for seed in seeds)
    _warn_of_equals(task, runs)
    return Retraining(candidate, epochs, runs, evaluated(task, dense, "test"))


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise UsageError without seeds, or with one twice."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds must be different numbers, at least one, got {list(seeds)}")


def need_test_split(task: Task) -> None:
    """Raise TaskError where the task has no test split, or one that is known to be empty."""
    name = f"{name_of(task)}.test_loader"
    with named(name):
        loader = task.test_loader()
    if isinstance(loader, Sized):
        with contextlib.suppress(TypeError):  # of a DataLoader over an unsized dataset
            if len(loader) == 0:
                raise TaskError(f"{name} must hold at least one batch, got 0")


def spread(metrics: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Mean and sample standard deviation of each metric; the latter is None for one value.

    >>> spread([{"accuracy": 0.5}, {"accuracy": 0.75}, {"accuracy": 1.0}])
    {'accuracy': Spread(mean=0.75, std=0.25)}
    """
    columns = {name: [values[name] for values in metrics] for name in metrics[0]}
    return {
        name: Spread(
            statistics.fmean(column), statistics.stdev(column) if len(column) > 1 else None
        )
        for name, column in columns.items()
    }


def _warn_of_equals(task: Task, finished: Sequence[SeedResult]) -> None:
    """Say that seeds change nothing, where two models are equal."""
    if len(finished) < 2:
        return
    one, other = (found.model.state_dict() for found in finished[:2])
    if all(torch.equal(value, other[name]) for name, value in one.items()):
        _LOG.warning(
            "seeds %d and %d gave equal models, so that spreads over seeds say nothing · "
            "%s.train_loader(seed) must give another order or augmentation for each seed",
            *(found.seed for found in finished[:2]),
            name_of(task),
        )


def _train(run: RecoveryRun, folder: Path | None, on_entry: OnEntry | None) -> None:
    if folder is not None and checkpoint.exists(folder):
        run.restore(folder)
    else:
        run.build()
    while not run.finished or not run.history:
        entry = run.advance(1.0)
        if folder is not None:
            run.save(folder)
        if on_entry is not None:
            on_entry(run.seed, entry)


def _finish(run: RecoveryRun, folder: Path | None, convert: Convert | None) -> SeedResult:
    """Test a trained model, or read the test that was made before an interruption."""
    test = read_metrics(folder) if folder is not None else None
    model = run.result()
    converted = convert(model) if convert is not None else None
    if test is None:
        test = evaluated(run.task, converted, "test") if converted else run.evaluate("test")
        if folder is not None:
            write_metrics(folder, test)
    return SeedResult(
        seed=run.seed,
        model=model,
        kept_indices=dict(run.kept_indices),
        test=test,
        validation=evaluated(run.task, converted, "val") if converted else run.metrics,
        history=tuple(run.history),
        times=dict(run.times),
    )
