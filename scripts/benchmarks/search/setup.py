"""One task of the benchmark: its sizes, and everything that all methods share."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.cost.model import CostModel
from autoprune.graph import PruningGraph, trace
from autoprune.pruning.build import build, units_of
from autoprune.pruning.compensate import Calibration
from autoprune.schedule import Schedule
from autoprune.store import read_model, recipe_of, save_model
from autoprune.tasks import checkpoints
from autoprune.tasks.load import load_dense, load_task
from autoprune.training import Precision, RecoveryRun
from autoprune.training.batches import sample
from scripts.benchmarks.harness import RESULTS, ROOT
from scripts.benchmarks.search import meter
from scripts.benchmarks.search.meter import Metered

MAX_RATIO = 0.9
MOST = 0.70  # of the dense model's multiply-accumulates: the budget
LEVELS = (0.70, 0.50, 0.35, 0.25)  # where accuracies are compared
RECIPES = {"lr": (0.005, 0.1), "distillation": (0.0, 0.9)}  # where the recipe is searched too
TOLD = (*LEVELS, 0.12, 0.06)  # to methods that are given costs; the last two: where accuracy falls
_LEAST = 0.04
_STATISTICS = 512  # samples with which RecoveryRun re-estimates BatchNorm
_DENSE = RESULTS / "search" / "dense"
PLAIN = Selection("l2", repair=False)
Keep = Mapping[str, Sequence[int]]
REFERENCES = {  # task's name in the rows -> what loads it
    "cifar10": "examples/cifar10.py:Cifar10ResNet20",
    "fashion_mnist": "examples/fashion_mnist.py:FashionMnist",
    "spoken_digits": "examples/spoken_digits.py:SpokenDigits",
    "keywords": "examples/voice_commands.py:VoiceCommands",
    "resnet8": "examples/cifar10.py:Cifar10ResNet8",
}


@dataclass(frozen=True)
class Job:
    """How large the benchmark of a task is: `trials` candidates of `steps` training steps each.

    `trials` is what uniform pruning can train for the compute that every method gets.
    """

    task: str
    steps: int
    trials: int
    lr: float = 0.02
    distillation: float = 0.5
    rungs: int = 1

    @property
    def reference(self) -> str:
        """What `load_task` takes."""
        return REFERENCES.get(self.task, self.task)

    @property
    def recovery(self) -> Recovery:
        return Recovery(self.lr, self.distillation, 0.0)

    def __str__(self) -> str:
        return (
            f"{self.trials} x {self.steps} steps, lr {self.lr:g}, "
            f"distillation {self.distillation:g}, rungs {self.rungs}"
        )


FULL = {
    "cifar10": Job("cifar10", steps=80, trials=15, lr=0.03),
    "fashion_mnist": Job("fashion_mnist", steps=120, trials=16, lr=0.03),
    "spoken_digits": Job("spoken_digits", steps=60, trials=20, lr=0.03),
}
OTHERS = {  # learning rates only
    "keywords": Job("keywords", steps=45, trials=16),
    "resnet8": Job("resnet8", steps=80, trials=16),
}
SMALL = ("fashion_mnist", "spoken_digits")
QUICK = {"digits": Job("digits", steps=24, trials=8, lr=0.03)}


@dataclass(frozen=True)
class Setup:
    """What every method gets: the same dense model, graph, costs, recipe and arithmetic."""

    job: Job
    task: Metered
    dense: nn.Module
    graph: PruningGraph
    costs: CostModel
    precision: Precision
    folder: Path
    batch: int
    epoch_steps: int
    checked: int  # samples of validation and of BatchNorm's statistics in a trial

    @property
    def dense_macs(self) -> float:
        return self.costs.dense.get("macs")

    @property
    def counts(self) -> Path:
        """Where the processes of the present run write what they spend."""
        return self.folder / "passes"

    @property
    def epochs(self) -> float:
        """The training of one trial."""
        return self.job.steps / self.epoch_steps

    @property
    def setting(self) -> str:
        """What runs must share to be compared: sizes, recipe, and what can be removed."""
        return f"{self.job}, {len(self.graph.groups)} groups"

    @property
    def weights_hash(self) -> str:
        """Twelve digits that say which dense weights these are."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.dense.state_dict().items()):
            state.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return state.hexdigest()[:12]

    def budget(self, factor: float = 1.0) -> float:
        """The compute of a method, in training samples."""
        return factor * self.job.trials * self.planned(1.0)

    def planned(self, macs_share: float) -> float:
        """What a trial will spend."""
        return meter.planned(
            steps=self.job.steps,
            batch=self.batch,
            distilled=self.job.distillation > 0.0,
            macs_share=macs_share,
            checked={"val and statistics": self.checked},
        )

    def spent(self) -> float:
        """What the present run has spent."""
        return meter.total(self.counts).spent(self.dense_macs)

    def share(self, kept: Mapping[str, int]) -> float:
        """Multiply-accumulates of a candidate over the dense model's."""
        return self.costs.cost(Architecture(kept)).get("macs") / self.dense_macs

    def candidate(
        self,
        widths: Mapping[str, int],
        *,
        selection: Selection = PLAIN,
        recovery: Recovery | None = None,
    ) -> Candidate:
        """One-shot removal, then the common recovery, unless another is given."""
        return Candidate(
            Architecture(widths),
            selection,
            Schedule("one_shot", 0.0, 0.0, 1),
            recovery or self.job.recovery,
        )


def prepare(
    job: Job, folder: Path, *, precision: Precision, args: Mapping[str, Any] | None = None
) -> Setup:
    """Load the task and its dense model, and trace it.

    Dense models that the script has trained are kept beside its rows: trained again on a processor
    with other vector instructions, the weights would not be the same.
    """
    task = load_task(job.reference, base=ROOT, args=args)
    kept = _DENSE / f"{job.task}.safetensors"
    if kept.is_file():
        task.checkpoint = kept
    dense = load_dense(task)
    checkpoint = folder / "dense.safetensors"
    checkpoints.save(dense, checkpoint)
    graph = trace(dense, task.example_input(), ignored_layers=task.ignored_layers)
    batch = len(sample(task, 0, samples=1, least=1)[0][0])
    validation = sum(len(targets) for _, targets in task.val_loader())
    return Setup(
        job=job,
        task=Metered(task, folder / "passes", checkpoint),
        dense=dense,
        graph=graph,
        costs=CostModel(graph),
        precision=precision,
        folder=folder,
        batch=batch,
        epoch_steps=len(task.train_loader(0)),  # type: ignore[arg-type]
        checked=validation + -(-_STATISTICS // batch) * batch,
    )


@dataclass(frozen=True)
class Tried:
    """One trial of any method; `spent` and `wall_s` are the run's when it ended."""

    number: int
    state: str
    origin: str
    candidate: Candidate
    share: float
    params: int
    epochs: float
    accuracy: float | None
    spent: float
    wall_s: float
    train_s: float
    model: Path | None
    keep: Keep | None = None  # where the method itself chose the units


@dataclass
class Clock:
    """Seconds since a run began."""

    began: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        return time.monotonic() - self.began


def recover(
    setup: Setup,
    candidate: Candidate,
    *,
    epochs: float,
    seed: int,
    keep: Keep | None = None,
    calibration: Calibration | None = None,
) -> RecoveryRun:
    """Remove, then train for `epochs` and validate once; `keep` overrides which units stay."""
    run = RecoveryRun(
        setup.task,
        setup.dense,
        setup.graph,
        candidate,
        epochs=epochs,
        seed=seed,
        calibration=calibration,
        precision=setup.precision,
    )
    if keep is not None:
        run._pruner.choose = lambda stage, *_: units_of(run.graph, stage, None, keep)  # type: ignore[method-assign]
    run.advance(epochs)
    return run


def store(setup: Setup, run: RecoveryRun, number: int) -> Path:
    """Keep a finished model for its one look at the test split."""
    path = setup.folder / "models" / str(number)
    save_model(
        path, run.result(), recipe_of(run.candidate, run.kept_indices, task=setup.job.reference)
    )
    return path


def test_accuracy(setup: Setup, model: Path) -> float:
    """The accuracy of a kept model on the test split."""
    recipe, state = read_model(model)
    small = build(
        setup.dense,
        setup.graph,
        recipe.candidate.architecture,
        kept_indices=recipe.kept_indices,
    ).model
    small.load_state_dict(state, strict=True)
    return setup.task.evaluate(small.eval(), "test")[setup.task.metric]


def levels(most: float = MOST, least: float = _LEAST) -> list[float]:
    """Cost shares for methods that are given one: first those compared and two small ones.

    Then ever finer between `least` and `most`.

    >>> [round(level, 2) for level in levels()[:9]]
    [0.7, 0.5, 0.35, 0.25, 0.12, 0.06, 0.37, 0.2, 0.53]
    """
    found = [level for level in TOLD if level <= most]
    for number in range(1, 64):
        share, digit, rest = 0.0, 0.5, number
        while rest:  # van der Corput: 1/2, 1/4, 3/4, 1/8 ...
            rest, bit = divmod(rest, 2)
            share, digit = share + bit * digit, digit / 2.0
        found.append(least + share * (most - least))
    return found


def fitted(
    setup: Setup, kept_at: Callable[[float], dict[str, int]], level: float
) -> dict[str, int]:
    """The largest model within `level` of the dense cost; `kept_at` falls from 0 to 1."""
    low, high = 0.0, 1.0
    best = kept_at(high)
    for _ in range(14):
        middle = (low + high) / 2.0
        kept = kept_at(middle)
        if setup.share(kept) <= level:
            best, high = kept, middle
        else:
            low = middle
    return best


def arithmetic(precision: Precision) -> str:
    """How the rows name it.

    >>> arithmetic(Precision(bf16=True, channels_last=True)), arithmetic(Precision())
    ('bf16 channels last', 'float32')
    """
    kind = "bf16" if precision.bf16 else "float32"
    return kind + (" channels last" if precision.channels_last else "")


def named(precision: str) -> Precision:
    """The arithmetic that rows name so.

    >>> named("float32 channels last")
    Precision(bf16=False, channels_last=True)
    """
    return Precision("bf16" in precision, "last" in precision)


def threads() -> int:
    """One trial at a time gets all cores that this process may use."""
    count = len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count
