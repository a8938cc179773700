"""Accuracy at equal cost after full training: what allocation, blocks and int8 each add.

    AUTOPRUNE_DATA=... python -m scripts.benchmarks.equal_cost resnet8 --cost weight_bytes

Each method chooses one architecture at a share of the dense float32 model's cost (latency or peak
memory in ONNX Runtime on one thread, bytes of the weights or of the file). Latencies are equal as
measured: what was chosen for a predicted share is measured beside the dense model, and chosen again
for a rescaled share, in three rounds at most (`--no-match` leaves it at the prediction). What was
chosen is kept (`results/equal_cost/chosen.json`): seeds may run in processes of their own.
`smaller dense model` is another dense model of the family, narrowed uniformly as far as needed (or
pruned by the allocator: `channels + blocks`), and distilled from the same teacher; `from scratch`
methods begin with random weights and learn from that teacher, too. `search` is the best of the
front of a whole search within the share (32 trials of one epoch, for each seed), trained by the
recipe of all methods or by its own (schedule, distillation, regularizer), which `search's recipe`
offers to baselines; its latency is limited as predicted and shown as measured. The compute of
searches is not in the table. Everything else is equal: the largest ratio of a layer, the importance
of units, the repair, the recipe and its length (unless the method's name says `double epochs`), and
the learning rates (`--rates`), of which each method keeps the one that is best on validation; a
training that fails is worse than all others. int8 models simulate int8 in the last fifth of the
training, and their accuracy is that of the quantized file in ONNX Runtime. File sizes, and the cost
where it is not bytes of weights, are measured on what was trained; a float32 file that is the cost
is the packed one. The test split is read once for each method and seed. Dense models are the
tasks'; those of CIFAR-10 have seen the validation images, unless `--dense-epochs` trains them on
the training images alone. Rows that are there are kept; `results/equal_cost/rows.csv`, table
`README.md`.
"""

from __future__ import annotations

from argparse import BooleanOptionalAction, Namespace
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import nn

from autoprune.architecture import INT8, Architecture
from autoprune.candidate import Candidate
from autoprune.cost.latency import measure_together
from autoprune.cost.memory import measure_peak_memory
from autoprune.device.sampling import pruned
from autoprune.errors import TrainingError
from autoprune.quantization import compared, int8_for_timing, twin_of
from autoprune.store import QuantizationSettings, pack, recipe_of
from autoprune.training.recovery import RecoveryRun
from scripts.benchmarks import harness
from scripts.benchmarks.equal_cost.bench import METHODS, SMALLER, TASKS, Bench, Method
from scripts.benchmarks.equal_cost.table import OUT, stored_rows, write_page
from scripts.benchmarks.matching import Match, Matches, matched

COSTS = ("latency_ms", "weight_bytes", "file_bytes", "peak_memory_bytes")


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    rows, where = stored_rows(), harness.circumstances()
    bench = Bench(given.task, given.cost, dense_epochs=given.dense_epochs)
    is_matched = given.match and given.cost == "latency_ms"
    choices = Choices(bench, Matches(OUT / "chosen.json"), is_matched=is_matched)
    methods = [each for each in given.methods if choices.has(METHODS[each])]
    for seed, share in product(given.seeds, given.shares):
        same: dict[str, dict[str, Any]] = {}  # methods may choose one model
        for method in methods:
            key = {
                **{"task": given.task, "cost": given.cost, "share": share, "method": method},
                **{"epochs": given.epochs, "rates": str(given.rates)},
                **{"matched": is_matched, "dense_epochs": given.dense_epochs, "seed": seed},
            }
            if len(rows.find(**key)):
                continue
            how = METHODS[method]
            choice = choices.of(how, share, seed)
            model = f"{choice.candidate.key} {how.smaller} {how.scratch} {how.epochs}"
            if model not in same:
                same[model] = columns(bench, choice, how, given, seed)
            if not same[model]:
                print(f"{method}, seed {seed}: no training succeeded", flush=True)
                continue
            found = {**key, "rounds": choice.rounds, **same[model]}
            print({name: found[name] for name in found if name not in where}, flush=True)
            rows.put({**found, **where})
            write_page(rows.read())


def arguments() -> Namespace:
    parser = harness.parser(__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--cost", choices=COSTS, default="latency_ms")
    parser.add_argument("--match", action=BooleanOptionalAction, default=True)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.12])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.02, 0.05])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of training; latencies have one")
    parser.add_argument("--dense-epochs", type=int, default=0, help="train the dense models")
    return parser.parse_args()


@dataclass(frozen=True)
class Choice:
    """What a method trains, with the bench of the dense model that it prunes.

    `rounds` of measuring; as predicted it takes none.
    """

    bench: Bench
    candidate: Candidate
    rounds: int


class Choices:
    """What each method chooses at a share of the dense model's cost, as measured or as predicted.

    An architecture is the same for all seeds, unless a search chooses it, and for all methods that
    differ in their training alone.
    """

    def __init__(self, bench: Bench, matches: Matches, *, is_matched: bool) -> None:
        self._bench, self._matches, self._is_matched = bench, matches, is_matched

    def has(self, how: Method) -> bool:
        """Whether there is a dense model for a method."""
        return not how.smaller or self._bench.name in SMALLER

    def of(self, how: Method, share: float, seed: int) -> Choice:
        """What a method chooses."""
        used = self._smaller if how.smaller else self._bench
        if how.is_searched:
            found = used.searched(share, seed)
            return Choice(used, found if how.recipe else used.candidate(how, found.architecture), 0)
        match = self._matches.get(self._name(how, share), lambda: self._match(used, how, share))
        candidate = used.candidate(how, match.architecture)
        if how.recipe:
            candidate = used.plan.space.resized(used.searched(share, seed), match.architecture)
        return Choice(used, candidate, match.rounds)

    @cached_property
    def _smaller(self) -> Bench:
        """Of a smaller dense model, with the same teacher."""
        bench = self._bench
        return Bench(SMALLER[bench.name], bench.cost, bench.dense, bench.dense_epochs)

    def _name(self, how: Method, share: float) -> str:
        bench, equal = self._bench, "measured" if self._is_matched else "predicted"
        dense = f"dense model of {bench.dense_epochs} epochs, " if bench.dense_epochs else ""
        return f"{bench.name}, {dense}{bench.cost} {share:g} as {equal}: {how.choice}"

    def _match(self, used: Bench, how: Method, share: float) -> Match:
        bench = self._bench

        def choose(asked: float) -> Architecture:
            return used.architecture(how, asked * bench.dense_cost / used.dense_cost)

        def measure(architecture: Architecture) -> float:
            small = pruned(used.dense, used.graph, architecture)
            is_int8 = architecture.precision == INT8
            module = int8_for_timing(small, bench.example) if is_int8 else small
            return float(_timed(bench, module)["measured_share"])

        if self._is_matched:
            return matched(share, choose, measure)
        return Match(choose(share), share, 0)


def columns(
    bench: Bench, choice: Choice, how: Method, given: Namespace, seed: int
) -> dict[str, Any]:
    """What a row says of the model beside its key; empty where every training failed."""
    run = trained(choice.bench, how, choice.candidate, given, seed)
    if run is None:
        return {}
    return {
        **described(bench, choice.bench, choice.candidate.architecture),
        **run.facts,
        **deployed(bench, run, seed),
    }


def described(bench: Bench, used: Bench, architecture: Architecture) -> dict[str, Any]:
    """What the architecture is, and its predicted cost as a share of the dense float32 model's.

    `used` is the bench of the model that it prunes.
    """
    cost = used.plan.price(architecture)
    return {
        "precision": architecture.precision,
        "dropped": len(architecture.dropped),
        "macs_share": used.macs(architecture) / bench.dense_macs,
        "predicted_share": cost.get(bench.cost) / bench.dense_cost,
    }


@dataclass(frozen=True)
class Trained:
    """The model of the best learning rate."""

    bench: Bench
    architecture: Architecture
    run: RecoveryRun
    lr: float
    accuracy: float

    @property
    def packed_bytes(self) -> int | None:
        """The size of its packed file; None in int8, whose file is ONNX."""
        if self.architecture.precision == INT8:
            return None
        candidate, kept = Candidate(self.architecture), self.run.kept_indices
        task, args = TASKS[self.bench.name], self.bench.task_args
        recipe = recipe_of(candidate, kept, task=task, task_args=args)
        return len(pack(recipe, self.run.result().state_dict()))

    @property
    def facts(self) -> dict[str, float]:
        """Its columns in a row."""
        return {"lr": self.lr, "val_accuracy": self.accuracy}


def trained(
    bench: Bench, method: Method, candidate: Candidate, given: Namespace, seed: int
) -> Trained | None:
    """The model of the learning rate that is best on validation, as deployed.

    A training that fails, as where the loss becomes NaN, is worse than all others; None where all
    of them fail.
    """
    best, epochs = None, given.epochs * method.epochs
    for lr in given.rates:
        run = bench.run(candidate, epochs, lr, seed, scratch=method.scratch)
        try:
            while not run.finished:
                run.advance(epochs)
        except TrainingError as error:
            print(f"rate {lr:g}: {error}", flush=True)
            continue
        accuracy = _validation(bench, candidate.architecture, run, seed)
        if best is None or accuracy > best.accuracy:
            best = Trained(bench, candidate.architecture, run, lr, accuracy)
    return best


def _validation(bench: Bench, architecture: Architecture, run: RecoveryRun, seed: int) -> float:
    if architecture.precision != INT8:
        return run.metrics["accuracy"]
    settings = QuantizationSettings(seed=seed)
    twin = twin_of(run.result().eval(), bench.task, settings, threads=1)
    return compared(twin, bench.task, settings).int8.validation["accuracy"]


def deployed(bench: Bench, made: Trained, seed: int) -> dict[str, Any]:
    """The model's file in its precision: tested once, weighed, timed beside the dense model."""
    task, settings = made.bench.task, QuantizationSettings(seed=seed)
    twin = twin_of(made.run.result().eval(), task, settings, threads=1)
    module: nn.Module = twin.float32
    if made.architecture.precision == INT8:
        report = compared(twin, task, settings, test=True).int8
        module, test, size = twin.int8, report.test["accuracy"], report.file_bytes
    else:
        test, size = made.run.evaluate("test")["accuracy"], len(twin.float32.written.data)
    return {
        "test_accuracy": test,
        "file_bytes": size,
        "file_share": size / bench.dense_file_bytes,
        **measured(bench, made, module, size),
    }


def measured(bench: Bench, made: Trained, module: nn.Module, size: int) -> dict[str, Any]:
    """The cost that is equal, of the model's file; bytes of weights are counted, not measured."""
    if bench.cost == "latency_ms":
        return _timed(bench, module)
    if bench.cost == "peak_memory_bytes":
        small, dense = (
            measure_peak_memory(each, bench.example, "onnxruntime")
            for each in (module, bench.dense)
        )
        return {"measured_share": small / dense}
    if bench.cost == "file_bytes":
        return {"measured_share": (made.packed_bytes or size) / bench.dense_cost}
    return {}


def _timed(bench: Bench, module: nn.Module) -> dict[str, Any]:
    """Measured beside the dense model."""
    dense, small = measure_together([bench.dense, module], bench.example, "onnxruntime")
    return {
        "measured_share": small.ratio,
        "dense_ms": dense.median_ms,
        "noisy": small.noisy,
    }


if __name__ == "__main__":
    main()
