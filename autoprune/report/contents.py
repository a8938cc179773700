"""What a run folder holds, as plain values, with what can be read off them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autoprune.architecture import INT8
from autoprune.config import RunConfig
from autoprune.cost_fields import FILE, MEMORY, field_at, is_cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.patterns import UNSTRUCTURED, of_groups, overall, sparsity_of
from autoprune.printable import quoted
from autoprune.record import TrialRecord, at_best_rate
from autoprune.report import text
from autoprune.store import (
    DenseReport,
    FrozenInfo,
    Network,
    ProfileSummary,
    QuantizationReport,
    RetrainingSummary,
    SearchPlan,
)

NO_FASTER = (
    "Zeros inside of weights make the file smaller (file_bytes), not the model faster: the "
    "runtimes that are measured here compute with them as with any other number."
)
_COUNTS = ("params", "macs", "weight_bytes")
BY_GOAL = (FILE, MEMORY)  # shown where they are a limit or an objective
STATES = ("complete", "stopped", "infeasible", "failed")


@dataclass(frozen=True)
class RunContents:
    """Everything that a report needs, read once.

    `not_measured` says why the device could not measure the front of a search that has ended;
    `over` by how much models are over each limit as measured; `quantized` what quantizing models of
    a trial gave, by its number and the model's name; `ended_by` the limit that ended the search, in
    words; `folder` where the run lies, from the working directory; `sensitivity`, by group, how
    much the outputs change with half of it pruned alone; `smaller` other dense models, which are no
    trials.
    """

    name: str
    config: RunConfig
    environment: Mapping[str, Any]
    devices: Mapping[str, ProfileSummary | None]
    records: tuple[TrialRecord, ...]
    front: ParetoFront | None
    finished: bool
    dense: DenseReport
    groups: Mapping[str, int]
    frozen: tuple[FrozenInfo, ...]
    retrained: tuple[RetrainingSummary, ...]
    importances: Mapping[str, Mapping[str, float]]
    wall_s: float | None
    not_measured: str | None = None
    over: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    plan: SearchPlan | None = None
    blocks: tuple[str, ...] = ()
    quantized: Mapping[int, Mapping[str, QuantizationReport]] = field(default_factory=dict)
    network: Network | None = None
    ended_by: str = ""
    folder: str = ""
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    smaller: tuple[TrialRecord, ...] = ()

    @property
    def place(self) -> str:
        """The run's folder, as a word of a shell command."""
        return quoted(self.folder or self.name)

    @property
    def title(self) -> str:
        """The task's name, without its file."""
        return self.task.rpartition(":")[2] or self.task

    @property
    def without_model(self) -> str:
        """Why the front is empty, in words."""
        if not self.over:
            return "no finished model yet"
        parts = (
            f"trial {number} by {', '.join(_by(name, more) for name, more in over.items())}"
            for number, over in self.over.items()
        )
        return f"all finished models are over the budget as measured: {'; '.join(parts)}"

    @property
    def task(self) -> str:
        """The task's reference, as the configuration names it."""
        return self.config.task

    @property
    def metric(self) -> Objective | None:
        """The first objective that is a metric of the task."""
        objectives = self.front.objectives if self.front else ()
        return next((o for o in objectives if not is_cost(o.name)), None)

    @property
    def cost(self) -> Objective | None:
        """The first objective that is a cost."""
        objectives = self.front.objectives if self.front else ()
        return next((o for o in objectives if is_cost(o.name)), None)

    @cached_property
    def latencies(self) -> tuple[str, ...]:
        """The median latency of each device by its name: `latency_ms@phone`, ..."""
        return tuple(field_at("latency_ms", name) for name in self.devices or ("",))

    @cached_property
    def goals(self) -> frozenset[str]:
        """What the search was for: names of limits and objectives."""
        objectives = self.front.objectives if self.front else ()
        limits = self.config.budget.limits
        return frozenset((*(limit.field for limit in limits), *(o.name for o in objectives)))

    @cached_property
    def counts(self) -> tuple[str, ...]:
        """The counts that tables show: those of `BY_GOAL` where they are among the goals."""
        return (*_COUNTS, *(field for field in BY_GOAL if field in self.goals))

    @cached_property
    def members(self) -> tuple[TrialRecord, ...]:
        """The front's members by rising cost; empty while there is no front."""
        return self.front.members if self.front else ()

    @cached_property
    def uniform(self) -> tuple[TrialRecord, ...]:
        """The finished uniform baselines: the same ratio everywhere, the same recovery.

        Of the widths that were trained at several learning rates the best one, of equals the first;
        those of an earlier run only where they are predicted to be within this one's budget.
        """
        return tuple(record for record in self.baselines if record.baseline == "uniform")

    def _rank(self, record: TrialRecord) -> float:
        return self.metric.rank(record) if self.metric else 0.0

    @cached_property
    def baselines(self) -> tuple[TrialRecord, ...]:
        """All finished baselines (of reused ones as `uniform`), smaller dense models last."""
        known = at_best_rate(self.records, self._rank)
        within = [r for r in known if not r.is_reused or self._is_within(r)]
        return tuple(record for record in (*within, *self.smaller) if record.baseline)

    def _is_within(self, record: TrialRecord) -> bool:
        return not self.plan or not record.predicted or self.plan.allows(record.predicted)

    @cached_property
    def states(self) -> dict[str, int]:
        """How many trials ended in which state, every state named."""
        counted = Counter[str](record.state for record in self.records)
        return {state: counted[state] for state in STATES}

    @cached_property
    def own_states(self) -> dict[str, int]:
        """How many of the trials that count towards the limits ended in which state, if any."""
        trained = (r for r in self.records if r.is_counted and r.state != "infeasible")
        counted = Counter[str](record.state for record in trained)
        return {state: counted[state] for state in STATES if counted[state]}

    @cached_property
    def not_counted(self) -> dict[str, str]:
        """What stands beside the trials that count: how many, and what their training took."""
        others = [record for record in self.records if not record.is_counted]
        groups = {
            "baselines": ([r for r in others if not r.is_converted and not r.is_reused], ""),
            "in the other precision": ([r for r in others if r.is_converted], ""),
            "of an earlier run": ([r for r in others if r.is_reused], ""),
            "smaller dense models": (self.smaller, " on top"),
        }
        return {name: _counted(found, end) for name, (found, end) in groups.items() if found}

    @cached_property
    def epochs(self) -> float:
        """The training epochs of all trials together; those of an earlier run do not count."""
        return sum(record.epochs for record in self.records if not record.is_reused)

    @cached_property
    def times(self) -> dict[str, float]:
        """Seconds by name, summed over all trials, likewise."""
        total: Counter[str] = Counter()
        for record in self.records:
            total.update({} if record.is_reused else record.times)
        return dict(total)

    def metric_of(self, record: TrialRecord) -> float | None:
        """The record's value of the run's metric."""
        return record.metrics.get(self.metric.name) if self.metric else None

    def change(self, value: float | None) -> float | None:
        """A metric minus the dense model's; None where either is not known."""
        before = self.dense.metrics.get(self.metric.name) if self.metric else None
        return None if value is None or before is None else value - before

    def is_int8(self, record: TrialRecord) -> bool:
        """Whether the finished model computes in int8."""
        return record.candidate.architecture.precision == INT8

    def dropped(self, record: TrialRecord) -> str:
        """Which residual blocks a model has lost, in words; empty where it has all."""
        names = record.candidate.architecture.dropped
        of = f" ({len(names)} of {len(self.blocks)})" if self.blocks else ""
        return f"{', '.join(names)}{of}" if names else ""

    def patterns(self, record: TrialRecord) -> str:
        """Which sparsity patterns a model's weights have, in words; empty where they have none."""
        found = record.candidate.architecture.patterns
        weights = self.plan.space.weights if self.plan else {}
        kinds = Counter(
            pattern if of_groups(pattern) else UNSTRUCTURED for pattern in found.values()
        )
        words = ", ".join(
            f"{kind} in {count} weight{'s' * (count != 1)}" for kind, count in kinds.items()
        )
        of = (
            f" ({100 * overall(weights, found):.0f} % of all are zero)" if weights and found else ""
        )
        return words + of

    def zeros(self, record: TrialRecord) -> dict[str, float]:
        """The share of zeros of every weight that has a pattern in some member of the front."""
        known = self.plan.space.weights if self.plan else {}
        named = {n: None for r in self.members for n in r.candidate.architecture.patterns}
        patterns = record.candidate.architecture.patterns
        return {
            name: sparsity_of(patterns[name], known[name].inputs if name in known else 0)
            if name in patterns
            else 0.0
            for name in (*(n for n in known if n in named), *(n for n in named if n not in known))
        }

    def removed(self, record: TrialRecord) -> dict[str, float]:
        """The removed fraction of every group, in the order of the model."""
        return record.candidate.architecture.removed(self.groups) if self.groups else {}


def _counted(records: Sequence[TrialRecord], end: str) -> str:
    """How many, and the epochs that this search trained them."""
    epochs = sum(record.epochs for record in records if not record.is_reused)
    return f"{len(records)}" + (f" ({epochs:.4g} epochs{end})" if epochs else "")


def _by(name: str, more: float) -> str:
    """How far a cost is over its limit, in words."""
    return f"{text.label(name)} {100 * more:.2g} %"
