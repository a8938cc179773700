"""A task with all that its methods share, and what each method chooses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import nn

from autoprune._search.allocation.allocator import Allocator, Item
from autoprune._search.preparing.context import measure_sensitivity
from autoprune._search.preparing.prepare import prepare
from autoprune._search.sampling.score import heads
from autoprune.architecture import BLOCK, IN_FLOAT, INT8, Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.config import RunConfig
from autoprune.cost.model import CostModel
from autoprune.cost.onnx_export import to_onnx
from autoprune.pruning.build import build
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import obs_scores
from autoprune.pruning.sensitivity import Sensitivity, divergence
from autoprune.tasks.load import load_task
from autoprune.training import Answers, RecoveryRun, choose
from autoprune.training.batches import sample
from autoprune.training.rng import untrained
from scripts.benchmarks.equal_cost import rules
from scripts.benchmarks.equal_cost.rules import MAX_RATIO, Counts
from scripts.benchmarks.equal_cost.whole import searched

TASKS = {
    "resnet8": "examples/cifar10.py:Cifar10ResNet8",
    "keywords": "examples/voice_commands.py:VoiceCommands",
    "resnet20": "examples/cifar10.py:Cifar10ResNet20",
    "resnet56": "examples/cifar10.py:Cifar10ResNet56",
    "fashion_mnist": "examples/fashion_mnist.py:FashionMnist",
    "spoken_digits": "examples/spoken_digits.py:SpokenDigits",
}
SMALLER = {"resnet56": "resnet20"}  # a smaller dense model of the family, with the same data


@dataclass(frozen=True)
class Method:
    """How an architecture is chosen, and from which weights it is trained.

    `widths`: `uniform`, `global l2`, `fastnas`, `knapsack`, `random`, `allocated`, `full` (blocks
    alone), or `searched`: by a whole search for each seed. `beside`: what may change beside widths,
    of `blocks` and `int8`; a search may change everything. With `recipe` it is trained by what the
    search of the same seed found (schedule, distillation, regularizer), but with the rates of all
    methods. With `smaller` it prunes another dense model of the family. With `scratch` it begins
    with random weights; `epochs` times as long as others.
    """

    widths: str
    beside: frozenset[str] = frozenset()
    recipe: bool = False
    smaller: bool = False
    scratch: bool = False
    epochs: int = 1

    @property
    def is_searched(self) -> bool:
        """Whether a whole search chooses."""
        return self.widths == "searched"

    @property
    def choice(self) -> str:
        """What its architecture depends on: methods of one choice train the same one.

        >>> Method("allocated", frozenset({"blocks"}), smaller=True, epochs=2).choice
        'allocated + blocks, smaller dense model'
        """
        return (
            " + ".join([self.widths, *sorted(self.beside)]) + ", smaller dense model" * self.smaller
        )


METHODS = {
    "uniform": Method("uniform"),
    "global l2": Method("global l2"),
    "FastNAS rule": Method("fastnas"),
    "knapsack of units": Method("knapsack"),
    "random, best of 8": Method("random"),
    "smaller dense model": Method("uniform", smaller=True),
    "smaller dense model, channels + blocks": Method(
        "allocated", frozenset({"blocks"}), smaller=True
    ),
    "from scratch": Method("uniform", scratch=True),
    "from scratch, double epochs": Method("uniform", scratch=True, epochs=2),
    "smaller dense model, from scratch": Method("uniform", smaller=True, scratch=True),
    "channels": Method("allocated"),
    "uniform, search's recipe": Method("uniform", recipe=True),
    "channels, search's recipe": Method("allocated", recipe=True),
    "channels + blocks": Method("allocated", frozenset({"blocks"})),
    "blocks": Method("full", frozenset({"blocks"})),
    "uniform + int8": Method("uniform", frozenset({"int8"})),
    "channels + int8": Method("allocated", frozenset({"int8"})),
    "channels + blocks + int8": Method("allocated", frozenset({"blocks", "int8"})),
    "search": Method("searched", frozenset({"blocks", "int8"})),
    "search, its recipe": Method("searched", frozenset({"blocks", "int8"}), recipe=True),
}
CALIBRATION = 1024  # training samples
DRAWN = 64  # random allocations, until eight are within the share
SCORED = 256  # of these, by which random allocations are compared
QUANTIZATION_AWARE = 0.2  # of the training, at its end
_RATIOS = np.linspace(0.0, MAX_RATIO, 400)


def _at_full_width(item: Item) -> Item:
    """A group that keeps all of its units, unless its block is dropped; others as they are."""
    if item.name == IN_FLOAT or item.name.startswith(BLOCK):
        return item
    return replace(item, options=(max(item.options),))


class Bench:
    """Dense model, graph, costs, sensitivities and calibration of one task."""

    def __init__(
        self, name: str, cost: str, teacher: nn.Module | None = None, dense_epochs: int = 0
    ) -> None:
        """`teacher` is what is distilled from, by default the dense model.

        That is trained for `dense_epochs` on the training split; with 0 it is the task's own.
        """
        self.name, self.cost, self._teacher = name, cost, teacher
        self.dense_epochs = dense_epochs
        self.task_args = {"dense_epochs": dense_epochs} if dense_epochs else {}
        config = RunConfig.from_dict(
            {
                "task": TASKS[name],
                "task_args": self.task_args,
                "budget": {cost: "50%"},
                "device": {"runtime": "onnxruntime", "threads": 1},
                "train_on": "cpu",
                "space": {
                    "ratios": {"max": MAX_RATIO},
                    "depth": {"max": 1.0},
                    "precision": ["float32", "int8"],
                    "schedule": {"kind": "one_shot"},
                },
            }
        )
        self.task = load_task(config.task, args=self.task_args)
        ready = prepare(config, self.task, print)
        self.plan = replace(ready.plan, margins={})  # costs are measured in the end
        self.dense, self.graph = ready.dense, ready.graph
        self.example = self.task.example_input()
        self.calibration = calibrate(
            self.dense, sample(self.task, 0, samples=CALIBRATION), forward=self.task.loss
        )
        self.table = measure_sensitivity(config, self.task, ready, self.calibration, print)
        self._scores = obs_scores(self.dense, self.graph, self.calibration)
        self.precision = choose(self.task, self.dense, "cpu")
        self._answers: dict[int, Answers] = defaultdict(Answers)  # of the teacher, by seed
        self.dense_file_bytes = len(to_onnx(self.dense, self.example).data)
        self._counted = CostModel(self.graph)
        self._rules: dict[str, Counts] = {}

    def macs(self, architecture: Architecture) -> float:
        """Multiply-accumulates."""
        return self._counted.cost(architecture, ["macs"]).get("macs")

    @property
    def dense_macs(self) -> float:
        """Those of the dense model."""
        return self._counted.dense.get("macs")

    @property
    def dense_cost(self) -> float:
        """The dense model's cost, as predicted."""
        return self.plan.dense.get(self.cost)

    def architecture(self, method: Method, share: float) -> Architecture:
        """What a method other than a search chooses within a share of the dense float32 cost.

        The smallest that it can make, where none is within it.
        """
        most = share / 0.5  # loads are relative to the budget of 50 %
        if method.widths in RULES:
            counts = self._counts(method.widths)
            return self._first_within(counts, most, int8="int8" in method.beside)
        if method.widths == "random":
            return self._random(most)
        items = [self._restricted(item, method.beside) for item in self.plan.items]
        if method.widths == "full":
            items = [_at_full_width(item) for item in items]
        increase = self._lost if method.widths == "knapsack" else self.table.at
        return self.plan.space.architecture(Allocator(items, increase, self.plan.loads).at(most))

    def _counts(self, rule: str) -> Counts:
        if rule not in self._rules:
            self._rules[rule] = RULES[rule](self)
        return self._rules[rule]

    @cached_property
    def _importances(self) -> Sensitivity:
        return rules.summed_importances(self.task, self.dense, self.graph)

    def _lost(self, item: str, count: int) -> float:
        """What the knapsack over units minimizes; precision and blocks are not in it."""
        known = self._importances
        return known.at(item, count) if item in known.counts else 0.0

    def _restricted(self, item: Item, allowed: frozenset[str]) -> Item:
        if item.name == IN_FLOAT:
            return replace(item, options=(0,) if "int8" in allowed else (1,))
        if "blocks" in allowed:
            return item
        options = (1,) if item.name.startswith(BLOCK) else item.options
        return replace(item, options=options, block=None)

    def _first_within(self, counts_at: Counts, most: float, *, int8: bool = False) -> Architecture:
        """The largest of widths that shrink with a ratio whose load is at most `most`."""
        low, high = 0, len(_RATIOS) - 1  # the load falls with the ratio: halve the interval

        def counts(place: int) -> dict[str, float]:
            return {**counts_at(float(_RATIOS[place])), IN_FLOAT: float(not int8)}

        while low < high:
            middle = (low + high) // 2
            if self.plan.load(counts(middle)) <= most:
                high = middle
            else:
                low = middle + 1
        return self.plan.space.architecture(counts(low))

    def _random(self, most: float) -> Architecture:
        """Of eight random allocations the one whose outputs move least after repair."""
        batches = heads(sample(self.task, 0, samples=SCORED), SCORED)
        score = divergence(self.dense, batches, forward=self.task.outputs)

        def moved(architecture: Architecture) -> float:
            small = build(
                self.dense,
                self.graph,
                architecture,
                scores=self._scores,
                calibration=self.calibration,
            ).model
            return score(small)

        draws = (rules.scattered(self.graph, seed) for seed in range(DRAWN))
        drawn = [self._first_within(counts_at, most) for counts_at in draws]
        within = [it for it in drawn if self.plan.load(self.plan.space.counts(it)) <= most]
        return min(within[:8] or drawn[:8], key=moved)

    def candidate(self, method: Method, architecture: Architecture) -> Candidate:
        """An architecture with the recipe of all methods."""
        selection = Selection("l2", repair=False) if method.scratch else Selection("obs")
        return Candidate(architecture, selection, recovery=Recovery(distillation=0.5))

    def searched(self, share: float, seed: int) -> Candidate:
        """What a whole search finds."""
        return searched(TASKS[self.name], self.cost, share, seed, self.dense_epochs)

    def run(
        self, candidate: Candidate, epochs: float, lr: float, seed: int, *, scratch: bool
    ) -> RecoveryRun:
        """The training of a candidate from the repaired dense weights, or from random ones."""
        is_int8 = candidate.architecture.precision == INT8
        return RecoveryRun(
            self.task,
            untrained(self.task, seed) if scratch else self.dense,
            self.graph,
            replace(candidate, recovery=replace(candidate.recovery, lr=lr)),
            epochs=epochs,
            seed=seed,
            calibration=None if scratch else self.calibration,
            precision=self.precision,
            quantization_aware=QUANTIZATION_AWARE if is_int8 else 0.0,
            teacher=self._teacher or self.dense,
            answers=self._answers[seed],
        )


RULES: dict[str, Callable[[Bench], Counts]] = {  # widths that shrink with a strength
    "uniform": lambda bench: rules.uniform(bench.graph),
    "global l2": lambda bench: rules.global_l2(bench.dense, bench.graph, bench.example),
    "fastnas": lambda bench: rules.fastnas(bench.task, bench.dense, bench.graph),
}
