"""What an engineer does without a search: a rule that gives one model for each cost, then recovery.

Each method turns a setup and a seed into a rule `level -> (kept units, which units or None)`.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
import torch_pruning
from torch import nn

from autoprune.candidate import Selection
from autoprune.errors import TrainingError
from autoprune.graph import PruningGraph
from autoprune.pruning import importance, surgery
from autoprune.pruning.calibration import calibrate
from autoprune.pruning.compensate import Calibration, reestimate_batchnorm
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.space import kept_units
from autoprune.tasks import Task
from autoprune.tasks.nested import device_of
from autoprune.training.batches import sample
from scripts.benchmarks.search.setup import (
    MAX_RATIO,
    PLAIN,
    Clock,
    Keep,
    Setup,
    Tried,
    fitted,
    levels,
    recover,
    store,
)

Rule = Callable[[float], tuple[Mapping[str, int], Keep | None]]

CUTS = (0.25, 0.5, 0.65, 0.8)  # where FastNAS's rule looks at each group, and at the largest ratio
CALIBRATION = 1024  # training samples of the moments that order and repair need
SCORED = 1000  # validation samples of one look
STATISTICS = 256  # training samples that re-estimate BatchNorm before one look


def uniform(setup: Setup, seed: int) -> Rule:
    """The same ratio everywhere, units by l2."""
    sizes = setup.graph.sizes()

    def kept_at(share: float) -> dict[str, int]:
        return {name: kept_units(size, share * MAX_RATIO, 1) for name, size in sizes.items()}

    return lambda level: (fitted(setup, kept_at, level), None)


def fastnas(setup: Setup, seed: int) -> Rule:
    """The largest drop of accuracy that every group may cause alone; units by l2.

    The rule of ModelOpt's FastNAS: each group alone is cut at several ratios, without training and
    with BatchNorm re-estimated, and scored on validation data; one threshold for all groups then
    says how far each may go, interpolated between the cuts.
    """
    table = drops(setup.task, setup.dense, setup.graph, seed)
    worst = max(values[0] for values in table.increases.values())

    def kept_at(share: float) -> dict[str, int]:
        return {name: tolerated(table, name, share * worst) for name in table.counts}

    return lambda level: (fitted(setup, kept_at, level), None)


def drops(
    task: Task, model: nn.Module, graph: PruningGraph, seed: int, largest: float = MAX_RATIO
) -> Sensitivity:
    """How far validation accuracy drops when each group alone is cut; never rising with size.

    At most to the ratio `largest`.
    """
    worth = importance.scores(model, graph, "l2")
    batches = sample(task, seed, samples=STATISTICS)
    dense = score(task, model)
    kept: dict[str, tuple[int, ...]] = {}
    increases: dict[str, tuple[float, ...]] = {}
    for name, size in graph.sizes().items():
        counts = sorted({kept_units(size, ratio, 1) for ratio in (*CUTS, largest)} - {size})
        found = {size: 0.0}
        for count in reversed(counts):
            small = copy.deepcopy(model)
            surgery.prune(small, graph, importance.best_units(worth, {name: count}))
            with torch.no_grad():
                reestimate_batchnorm(small, batches, forward=task.loss)
            found[count] = max(dense - score(task, small), *found.values())
        kept[name] = tuple(sorted(found))
        increases[name] = tuple(found[count] for count in kept[name])
    return Sensitivity(dense, kept, increases)


def global_l2(setup: Setup, seed: int) -> Rule:
    """Torch-Pruning's own global pruning by l2: its ratios and its units."""

    @functools.cache
    def pruned(share: float) -> dict[str, tuple[int, ...]]:
        return torch_pruned(setup.dense, setup.graph, setup.task.example_input(), share * MAX_RATIO)

    def rule(level: float) -> tuple[dict[str, int], Keep]:
        shares: dict[tuple[int, ...], float] = {}

        def kept_at(share: float) -> dict[str, int]:
            counts = {name: len(units) for name, units in pruned(share).items()}
            shares[tuple(counts.values())] = share
            return counts

        kept = fitted(setup, kept_at, level)
        return kept, pruned(shares[tuple(kept.values())])

    return rule


def torch_pruned(
    dense: nn.Module,
    graph: PruningGraph,
    example: torch.Tensor,
    ratio: float,
    largest: float = MAX_RATIO,
) -> dict[str, tuple[int, ...]]:
    """The units that Torch-Pruning keeps of each group, read from numbered running means.

    `ratio` is that of all units together, `largest` what a layer loses at most.
    What its graph couples otherwise than ours, it may not cut: a unit of ours stays unless all of
    its channels left.
    """
    marked = numbered(dense)
    last = [module for module in marked.modules() if isinstance(module, nn.Linear)][-1]
    level = logging.getLogger().level
    torch_pruning.pruner.BasePruner(
        marked,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=largest,
        ignored_layers=[last],
    ).step()
    logging.getLogger().setLevel(level)
    return read_marks(marked, graph)


def numbered(dense: nn.Module) -> nn.Module:
    """A copy whose running means are the numbers of their channels."""
    marked = copy.deepcopy(dense)
    for name, buffer in marked.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.arange(len(buffer)))
    return marked


def read_marks(marked: nn.Module, graph: PruningGraph) -> dict[str, tuple[int, ...]]:
    """Group -> units whose first numbered channel is still in a running mean."""
    kept = {}
    for group in graph.groups:
        part = next(s for s in group.slices if s.tensor.endswith("running_mean"))
        layer = marked.get_submodule(part.tensor.rpartition(".")[0])
        left = set(layer.running_mean.long().tolist())  # type: ignore[operator, union-attr]
        kept[group.name] = tuple(u for u in range(group.size) if int(part.indices[u][0]) in left)
    return kept


MakeRule = Callable[[Setup, int], Rule]
RULES: dict[str, MakeRule] = {
    "uniform": uniform,
    "global_l2": global_l2,
    "fastnas": fastnas,
}


def run(
    setup: Setup, seed: int, budget: float, *, rule: MakeRule, repaired: bool = False
) -> list[Tried]:
    """Trials at ever more cost levels, while the compute for another one is left.

    `repaired`: the rule's widths, with autoprune's order of units and repair instead of its own.
    """
    clock = Clock()
    choose = rule(setup, seed)
    ours = calibrated(setup, seed) if repaired else None
    found: list[Tried] = []
    seen: set[tuple[int, ...]] = set()
    for level in levels():
        if setup.spent() + setup.planned(level) > budget:
            break
        kept, keep = choose(level)
        if tuple(kept.values()) not in seen:
            seen.add(tuple(kept.values()))
            how = Repaired(ours) if ours else keep
            found.append(_tried(setup, level, seed, (kept, how), len(found), clock))
    return found


def calibrated(setup: Setup, seed: int) -> Calibration:
    """The statistics that autoprune's order of units and its repair need."""
    batches = sample(setup.task, seed, samples=CALIBRATION)
    return calibrate(setup.dense, batches, max_samples=CALIBRATION, forward=setup.task.loss)


@dataclass(frozen=True)
class Repaired:
    """Units by autoprune's order, and its repair, from these statistics."""

    calibration: Calibration


def _tried(
    setup: Setup,
    level: float,
    seed: int,
    choice: tuple[Mapping[str, int], Keep | Repaired | None],
    number: int,
    clock: Clock,
) -> Tried:
    kept, how = choice
    keep = None if isinstance(how, Repaired) else how
    calibration = how.calibration if isinstance(how, Repaired) else None
    candidate = setup.candidate(kept, selection=Selection("obs") if calibration else PLAIN)
    options = {"seed": seed, "keep": keep, "calibration": calibration}
    try:
        run = recover(setup, candidate, epochs=setup.epochs, **options)
    except TrainingError:
        run = None
    return Tried(
        number=number,
        state="complete" if run else "failed",
        origin=f"level {level:.3f}",
        candidate=candidate,
        share=setup.share(kept),
        params=int(setup.costs.cost(candidate.architecture).get("params")),
        epochs=run.epoch if run else 0.0,
        accuracy=run.metrics[setup.task.metric] if run else None,
        spent=setup.spent(),
        wall_s=clock(),
        train_s=run.times["train_s"] if run else 0.0,
        model=store(setup, run, number) if run else None,
        keep=keep,
    )


def tolerated(table: Sensitivity, name: str, drop: float) -> int:
    """The fewest units with which a group causes at most `drop`."""
    counts = range(table.counts[name][0], table.counts[name][-1] + 1)
    return next(count for count in counts if table.at(name, count) <= drop + 1e-12)


def score(task: Task, model: nn.Module, samples: int = SCORED) -> float:
    """Accuracy on the first validation samples."""
    right = seen = 0
    model.eval()
    with torch.no_grad():
        for inputs, targets in islice(task.val_loader(), samples):
            inputs, targets = (x[: samples - seen].to(device_of(model)) for x in (inputs, targets))
            right += int((model(inputs).argmax(1) == targets).sum())
            seen += len(targets)
            if seen >= samples:
                break
    return right / seen
