"""The plan of a search: everything decided before the first trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune._search.allocation.problem import Item
from autoprune.architecture import BLOCK, IN_FLOAT, Architecture
from autoprune.budget import Budget, Cost, Limit
from autoprune.candidate import Candidate
from autoprune.cost.precisions import Prices
from autoprune.cost_fields import FILE, MEMORY, is_cost
from autoprune.errors import BudgetError
from autoprune.pareto import Objective
from autoprune.quality import QualityLimit
from autoprune.recommendation import violations
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace
from autoprune.space.settings import Parameter, Value

_IMPOSSIBLE = 1e9


class Price(Protocol):
    """The predicted cost of a model."""

    def __call__(self, architecture: Architecture, fields: Collection[str] | None = None) -> Cost:
        """Of the named fields alone, where they are named."""


class Variables(Protocol):
    """Distributions to sample from, and the candidates that their values stand for."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The distributions."""

    def candidate(self, params: Mapping[str, Value]) -> Candidate:
        """The candidate of sampled values."""

    def params(self, candidate: Candidate) -> dict[str, Value]:
        """Values that stand for a candidate: exactly, or nearly."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a search ends: whichever is reached first. None sets no limit.

    A trial that takes more than `trial_timeout_s` from one report to the next is ended (None:
    learned from the trials so far). After `equal_failures` in a row the search ends (0: never).
    `keep_all` keeps the models of dominated trials, `disk_bytes` is the most that models may take.
    `patience` is how many trials may pass without growth of the hypervolume; 0 sets no limit.
    """

    trials: int = 30
    total_epochs: float | None = None
    seconds: float | None = None
    trial_timeout_s: float | None = None
    equal_failures: int = 5
    keep_all: bool = True
    disk_bytes: float | None = None
    patience: int = 0


@dataclass(frozen=True)
class Plan:
    """One search: what may vary, what it costs, what is wanted, and when it ends.

    `price` is the predicted cost of an architecture, `prices` the same for many at once (one by
    one, where it is not given).
    `reference` is the worst point that counts for the hypervolume, in the order of `objectives`.
    `levels` are lower budgets for which good models are wanted too.
    `epochs` is the training of one trial, evaluated at `rungs` points before its end. `margins` say
    by name how far predicted latencies lie below their upper bound: a candidate is within the
    budget only if the bound is, so that nearly all of what is trained holds when it is measured.
    `allocated` are the variables to sample instead of one ratio for each group.
    `quality` are limits on metrics after training, `metrics` those of the dense model.
    `largest_part` says in words which layer takes most of a cost of an architecture. With `scratch`
    the best architecture is trained from random weights at the end.
    """

    space: FittedSpace
    price: Price
    dense: Cost
    budget: Budget
    objectives: tuple[Objective, ...]
    reference: tuple[float, ...]
    limits: Limits = Limits()
    epochs: float = 2.0
    rungs: int = 2
    concurrent: int = 1
    sampler: str = "tpe"
    seed: int = 0
    levels: tuple[Budget, ...] = ()
    margins: Mapping[str, float] = field(default_factory=dict)
    prices: Prices | None = None
    allocated: Variables | None = None
    quality: tuple[QualityLimit, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    largest_part: Callable[[Architecture, str], str] | None = None
    scratch: bool = False

    @property
    def variables(self) -> Variables:
        """What the sampler draws: `allocated` where that is given, else ratios of groups."""
        return self.allocated or self.space

    @property
    def metric(self) -> Objective:
        """The first objective that is no cost."""
        return next(o for o in self.objectives if not is_cost(o.name))

    @property
    def milestones(self) -> tuple[float, ...]:
        """Epochs at which a trial that is pruned before its training is evaluated.

        The rungs, each half of the next, then the end; for other trials see `evaluations`.

        >>> from types import SimpleNamespace
        >>> Plan.milestones.fget(SimpleNamespace(epochs=4.0, rungs=2))
        (1.0, 2.0, 4.0)
        """
        return tuple(self.epochs / 2 ** (self.rungs - k) for k in range(self.rungs + 1))

    def cost(self, candidate: Candidate) -> Cost:
        """What the candidate's finished model is predicted to cost."""
        return self.price(candidate.architecture)

    def fits(self, candidate: Candidate) -> bool:
        """Whether the candidate is within the budget, with the margin; predicts nothing else."""
        return self.allows(self.price(candidate.architecture, self.budget.fields))

    def load(self, counts: Mapping[str, int]) -> float:
        """The largest share of a limit that is used, with the margin; above 1 is over budget.

        `counts` are of the space's items.
        """
        return self._load(self.space.architecture(counts))

    @property
    def items(self) -> tuple[Item, ...]:
        """What the allocator decides: every group's width, each block kept or not, precision."""
        space = self.space
        dropping = space.blocks if space.most_dropped else {}
        block = {g: f"{BLOCK}{name}" for name, groups in dropping.items() for g in groups}
        return tuple(
            Item(it, space.choices(it), block=block.get(it), is_global=it == IN_FLOAT)
            for it in space.items
        )

    def loads(self, counts: NDArray[np.int64], file_share: float = 1.0) -> NDArray[np.float64]:
        """`candidates x items` → `candidates x limits`: the share of each that is used, as `load`.

        Far above 1 where too many blocks are dropped. Files are taken to have `file_share` of the
        bytes that they have without patterns.
        """
        found = self._costs(counts, self.budget.fields)
        columns = [
            found[limit.field]
            * (file_share if limit.field == FILE else 1.0)
            * (1.0 + self.margins.get(limit.field, 0.0))
            / limit.resolve(self.dense)
            for limit in self.budget.limits
        ]
        return self._bounded(np.stack(columns, axis=1), counts)

    def file_share(self, patterns: Mapping[str, str]) -> float:
        """How large the dense model's file is with these patterns, over what it is without."""
        if not patterns or FILE not in self.budget.fields:
            return 1.0
        sparse = self.price(Architecture(patterns=patterns), (FILE,))
        return sparse.get(FILE) / self.dense.get(FILE)

    def shares(self, counts: NDArray[np.int64], field: str) -> NDArray[np.float64]:
        """`candidates x items` → one cost over the dense model's, likewise."""
        found = self._costs(counts, (field,))[field] / self.dense.get(field)
        return self._bounded(np.asarray(found), counts)

    def _costs(
        self, counts: NDArray[np.int64], fields: Collection[str]
    ) -> Mapping[str, NDArray[np.float64]]:
        if self.prices is not None:
            return self.prices(counts, fields)
        rows = [dict(zip(self.space.items, row, strict=True)) for row in counts.tolist()]
        costs = [self.price(self.space.architecture(row), fields) for row in rows]
        return {name: np.array([cost.get(name) for cost in costs]) for name in fields}

    def _bounded(
        self, loads: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        widths, blocks = len(self.space.widths), len(self.space.blocks)
        gone = (counts[:, widths : widths + blocks] == 0).sum(axis=1)
        loads[gone > self.space.most_dropped] = _IMPOSSIBLE
        return loads

    def _load(self, architecture: Architecture) -> float:
        return 1.0 + max(self.over(self.price(architecture, self.budget.fields)).values())

    def resized(self, candidate: Candidate, counts: Mapping[str, float]) -> Candidate:
        """The candidate with what the space allows that is nearest to these counts of its items."""
        return self.space.resized(candidate, self.space.architecture(counts))

    def limit(self, field: str) -> float:
        """The budget's limit on a cost, in its own unit; infinite where it has none."""
        found = [it.resolve(self.dense) for it in self.budget.limits if it.field == field]
        return min(found, default=math.inf)

    def over(self, cost: Cost) -> dict[str, float]:
        """(cost / limit) - 1 for each limited field, with the margin: above 0 is over budget."""
        found = self.budget.violations(cost, self.dense)
        return {
            name: (value + 1.0) * (1.0 + self.margins.get(name, 0.0)) - 1.0
            for name, value in found.items()
        }

    def broken(self, cost: Cost) -> list[str]:
        """Each limit that a predicted cost is above, with the margin that was left below it."""
        over, found = self.over(cost), []
        for limit in (limit for limit in self.budget.limits if over[limit.field] > 0.0):
            most, margin = limit.resolve(self.dense), self.margins.get(limit.field, 0.0)
            less = f" ({most:.5g} less a margin of {100 * margin:.2g} %)" if margin else ""
            highest = most / (1.0 + margin)
            found.append(f"{limit.field} {cost.get(limit.field):.5g} is above {highest:.5g}{less}")
        return found

    def constraints(self, record: TrialRecord) -> dict[str, float]:
        """What Optuna is told of a trial: above 0 is over a limit on a cost, or on a metric.

        Metrics count once a trial is complete.
        """
        found = self.over(record.predicted) if record.predicted is not None else {}
        if record.state == "complete":
            short = violations(record.metrics, self.metrics, self.quality, self.objectives)
            found |= {str(limit): short.get(str(limit), 0.0) for limit in self.quality}
        return found

    def worst_metric(self, metric: Objective) -> float | None:
        """The worst value of a metric that is within `quality`; None where that does not say."""
        maximize = metric.direction == "maximize"
        limits = [limit for limit in self.quality if limit.metric == metric.name]
        bounds = [limit.bound(self.metrics.get(metric.name, 0.0), maximize) for limit in limits]
        return (max(bounds) if maximize else min(bounds)) if bounds else None

    def allows(self, cost: Cost) -> bool:
        """Whether the predicted cost is within the budget, with the margin."""
        return all(value <= 0.0 for value in self.over(cost).values())

    def smallest(self) -> Cost:
        """The cost with the smallest widths, without the costliest blocks, and with most zeros.

        In the precision that uses the least of the budget.
        """
        return self.price(self.smallest_architecture)

    @cached_property
    def smallest_architecture(self) -> Architecture:
        """The smallest widths, without the costliest blocks, likewise.

        Where peak memory is limited, the widths that use the least of the budget: fewer channels
        may need more memory, if a kernel has no blocks of their number.
        """
        space = self.space
        least: dict[str, float] = {name: space.choices(name)[0] for name in space.widths}
        if MEMORY in self.budget.fields:
            least = self._descended(least)
        gone = {f"{BLOCK}{name}": 0 for name in self.costliest[: space.most_dropped]}
        wanted = [space.architecture({**least, **gone, IN_FLOAT: n}) for n in (0, 1)]
        sparse = [replace(it, patterns=space.patterns.sparsest(it.dropped)) for it in wanted]
        return min(dict.fromkeys(sparse), key=self._load)

    def _descended(self, widths: Mapping[str, float]) -> dict[str, float]:
        """Widths that no change of a single one makes cheaper, with all blocks.

        In int8 where the space has it.
        """
        found, groups, best = dict(widths), list(self.space.widths), math.inf
        while (load := self._least_of(found, groups)) < best - 1e-12:
            best = load
        return found

    def _least_of(self, found: dict[str, float], groups: Sequence[str]) -> float:
        """Set each width in `found` to its cheapest, one after another; the load then."""
        load = math.inf
        for name in groups:
            choices = self.space.choices(name)
            rows = [
                [{**found, name: n}.get(item, int(item != IN_FLOAT)) for item in self.space.items]
                for n in choices
            ]
            loads = self.loads(np.array(rows, dtype=np.int64)).max(axis=1)
            found[name], load = choices[int(loads.argmin())], float(loads.min())
        return load

    @cached_property
    def costliest(self) -> tuple[str, ...]:
        """The blocks in the order of what the budget gains without each, the most first."""
        if not self.space.most_dropped:
            return ()
        loads = {name: self._load(Architecture(dropped=[name])) for name in self.space.blocks}
        return tuple(sorted(loads, key=lambda name: loads[name]))

    def check(self) -> None:
        """Raise BudgetError where no model of the space can meet the budget, or one of its levels.

        Also where a level is not below the budget.
        """
        smallest = self.smallest()
        for limit in self.budget.limits:
            self._check(limit, f"budget.{limit.field}", smallest)
        for level in self.levels:
            limit, top = level.limits[0], self.budget.limits[0]
            self._check(limit, f"search.levels: {limit.field}", smallest)
            if limit.resolve(self.dense) >= top.resolve(self.dense):
                raise BudgetError(f"search.levels: {limit} must be below the budget's {top}")

    def _check(self, limit: Limit, name: str, smallest: Cost) -> None:
        """Raise BudgetError where the smallest model is above a limit, with the margin."""
        over = replace(self, budget=Budget((limit,))).over(smallest)[limit.field]
        if over > 0.0:
            most = limit.resolve(self.dense)
            part = (
                self.largest_part(self.smallest_architecture, limit.field)
                if self.largest_part
                else ""
            )
            kept = ", or keep less" if self.space.ranges else ""
            raise BudgetError(
                f"{name} must be at least {most * (1.0 + over):.4g} (the smallest model of "
                f"this space{part}), got {most:.4g}{limit.note} · raise it, or allow more removal "
                f"with space.ratios.max (now {self.space.space.max_ratio:g}){kept}"
            )

    def values(self, record: TrialRecord) -> list[float] | None:
        """The objectives of a record in their own units; None where one is not determined.

        Also of one that began from random weights: it says nothing of pruned models.
        """
        if record.baseline == "scratch":
            return None
        values = [objective.value(record) for objective in self.objectives]
        return None if any(v is None for v in values) else [v for v in values if v is not None]
