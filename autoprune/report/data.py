"""A run folder as one plain view: what the tables and the page show, with what is missing as None.

A run may still be in progress: no front, no measured latency, no retrained model. Everything that
a view cannot know is None or empty here, and is named as unknown by what draws it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.architecture import INT8
from autoprune.budget import Cost, Limit
from autoprune.config import RunConfig
from autoprune.cost_fields import field_at, is_cost, split_field
from autoprune.errors import BudgetError
from autoprune.pareto import CostSource, Objective, ParetoFront
from autoprune.patterns import UNSTRUCTURED, of_groups, overall, sparsity_of
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.store import (
    DenseReport,
    FrozenInfo,
    ProfileSummary,
    QuantizationReport,
    RetrainingSummary,
    SearchPlan,
)

NO_FASTER = (
    "Zeros inside of weights make the file smaller (file_bytes), not the model faster: the "
    "runtimes that are measured here compute with them as with any other number."
)
STATES = ("complete", "stopped", "infeasible", "failed")


@dataclass(frozen=True)
class Verdict:
    """How one member compares with the dense model, in words, and whether it is better."""

    text: str
    good: bool | None


@dataclass(frozen=True)
class RunView:
    """Everything that a report needs, read once.

    `not_measured` says why the device could not measure the front of a search that has ended;
    `over` by how much models are over each limit as measured; `quantized` what quantizing a
    trial's model gave, by the trial's number.
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
    quantized: Mapping[int, QuantizationReport] = field(default_factory=dict)

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

    @property
    def latencies(self) -> tuple[str, ...]:
        """The median latency of each device by its name: `latency_ms@phone`, ..."""
        return tuple(field_at("latency_ms", name) for name in self.devices or ("",))

    @property
    def limits(self) -> tuple[tuple[Limit, float | None], ...]:
        """Each limit of the budget with its absolute value, None while dense is not known.

        A share of dense means the measured dense latency once there is one.
        """
        return tuple((limit, self._resolved(limit)) for limit in self.config.budget.limits)

    @property
    def levels(self) -> tuple[tuple[Limit, float | None, TrialRecord | None], ...]:
        """The lower cost levels of the search: limit, absolute value, best model.

        That is the completed one with the best metric, on the front or not.
        """
        lowered = (level.limits[0] for level in self.config.levels)
        return tuple((limit, *self._within(limit)) for limit in lowered)

    def _resolved(self, limit: Limit) -> float | None:
        known = self.bound(limit, "measured") or self.bound(limit, "predicted")
        return known or (self.plan.limits.get(limit.field) if self.plan else None)

    def _within(self, limit: Limit) -> tuple[float | None, TrialRecord | None]:
        """A limit's absolute value, and the best completed model within it."""
        front, metric = self.front, self.metric
        if front is None or metric is None:
            return self._resolved(limit), None
        value = self.bound(limit, front.source_of(limit.field))
        best: tuple[float, TrialRecord] | None = None
        for record in self.records:
            cost, score = front.value(limit.field, record), metric.value(record)
            if record.state != "complete" or cost is None or score is None or value is None:
                continue
            if cost <= value and (best is None or metric.sign * score < metric.sign * best[0]):
                best = score, record
        return value, best[1] if best else None

    def bound(self, limit: Limit, source: CostSource) -> float | None:
        """The absolute value of a limit; a share of dense is taken of the dense cost by source."""
        try:
            return limit.resolve(getattr(self.dense, source) or Cost())
        except BudgetError:
            return None

    @property
    def members(self) -> tuple[TrialRecord, ...]:
        """The front's members by rising cost; empty while there is no front."""
        return self.front.members if self.front else ()

    @property
    def uniform(self) -> tuple[TrialRecord, ...]:
        """The finished uniform baselines: the same ratio everywhere, the same recovery."""
        return tuple(record for record in self.records if record.is_baseline)

    @property
    def states(self) -> dict[str, int]:
        """How many trials ended in which state, every state named."""
        counted = Counter[str](record.state for record in self.records)
        return {state: counted[state] for state in STATES}

    @property
    def epochs(self) -> float:
        """The training epochs of all trials together."""
        return sum(record.epochs for record in self.records)

    @property
    def times(self) -> dict[str, float]:
        """Seconds by name, summed over all trials."""
        total: Counter[str] = Counter()
        for record in self.records:
            total.update(record.times)
        return dict(total)

    def metric_of(self, record: TrialRecord) -> float | None:
        """The record's value of the run's metric."""
        return record.metrics.get(self.metric.name) if self.metric else None

    def change(self, value: float | None) -> float | None:
        """A metric minus the dense model's; None where either is not known."""
        before = self.dense.metrics.get(self.metric.name) if self.metric else None
        return None if value is None or before is None else value - before

    def speedup(
        self, record: TrialRecord, field: str, source: CostSource = "measured"
    ) -> float | None:
        """How many times faster than dense, both by `source`; None where either is not known."""
        return speedup(getattr(self.dense, source), getattr(record, source), field)

    def is_predicted_only(self, field: str) -> bool:
        """Whether the search has ended without a way to measure this latency."""
        return self.front is not None and self.finished and self.source_of(field) == "predicted"

    def source_of(self, field: str) -> CostSource:
        """Which latency the front was made with: measured, or predicted."""
        return self.front.source_of(field) if self.front else "predicted"

    @property
    def gain_source(self) -> CostSource:
        """By which cost uniform baselines are compared: measured where all of them were."""
        measured = self._uniform_points("measured")
        return "measured" if len(measured) == len(self.uniform) else "predicted"

    def gain(self, record: TrialRecord) -> float | None:
        """The metric above uniform pruning at equal cost, positive where the record is better.

        The uniform baselines are joined by straight lines over the front's cost, by `gain_source`;
        None outside their range, where there are fewer than two, and for a baseline itself.
        """
        value, cost = self.metric_of(record), self.cost
        if self.metric is None or cost is None or value is None or record in self.uniform:
            return None
        at, points = cost.value(record, self.gain_source), self._uniform_points(self.gain_source)
        if at is None or len(points) < 2 or not points[0][0] <= at <= points[-1][0]:
            return None
        base = float(np.interp(at, [x for x, _ in points], [y for _, y in points]))
        return self.metric.sign * (base - value)

    def over_budget(self, record: TrialRecord) -> str | None:
        """The first limit that the measured model breaks, as words; None where it breaks none."""
        for limit, _ in self.limits:
            bound = self.bound(limit, "measured")
            got = record.measured.value(limit.field) if record.measured else None
            if bound is not None and got is not None and got > bound:
                device = split_field(limit.field)[1]
                on = f" on {device}" if device else ""
                return f"{text.cost(limit.field, got)} > {text.cost(limit.field, bound)}{on}"
        return None

    def verdict(self, record: TrialRecord) -> Verdict:
        """Whether this model is really faster than the dense one, as measured, and within budget.

        On each device in turn; where it could not be measured, the prediction, named as such.
        """
        over = self.over_budget(record)
        if over:
            noise = text.noise(record.measured)
            tail = f" · {noise}" if noise else ""
            return Verdict(f"over the budget as measured: {over}{tail}", False)
        parts = [self._faster(record, field) for field in self.latencies]
        known = [part.good for part in parts if part.good is not None]
        return Verdict("; ".join(part.text for part in parts), all(known) if known else None)

    def _faster(self, record: TrialRecord, field: str) -> Verdict:
        """One device's part of the verdict; below 2 % either way counts as no difference."""
        device = split_field(field)[1]
        on = f" on {device}" if device else ""
        source: CostSource = "predicted" if self.is_predicted_only(field) else "measured"
        ratio = self.speedup(record, field, source)
        if ratio is None:
            return Verdict(f"latency not measured{on}", None)
        note = record.measured.note(device) if record.measured and source == "measured" else ""
        tail = f"{on}, {source}" + (f" · {note}" if note else "")
        good = source == "measured" or None
        if ratio >= 1.02:
            return Verdict(f"{_times(ratio)} faster than dense{tail}", good)
        if ratio > 0.98:
            return Verdict(f"as fast as dense{tail}", False)
        return Verdict(f"{_times(1.0 / ratio)} slower than dense{tail}", False)

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
        words = ", ".join(f"{kind} in {count} weights" for kind, count in kinds.items())
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

    def _uniform_points(self, source: CostSource) -> list[tuple[float, float]]:
        cost = self.cost
        pairs = [(cost.value(r, source), self.metric_of(r)) for r in self.uniform] if cost else []
        return sorted((x, y) for x, y in pairs if x is not None and y is not None)


def speedup(dense: Cost | None, small: Cost | None, field: str) -> float | None:
    """How many times faster than dense, measured side by side; None where either was not.

    The inverse of the ratio measured in turns; of the two latencies where no ratio was kept.
    """
    base, device = split_field(field)
    sure = small.confidence_of(device) if small else None
    if sure is not None and base == "latency_ms":
        return 1.0 / sure.ratio
    before, after = (cost.value(field) if cost else None for cost in (dense, small))
    return before / after if before and after else None


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio >= 1.1 else f"{ratio:.2f}×"


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _by(name: str, more: float) -> str:
    """How far a cost is over its limit, in words."""
    return f"{text.label(name)} {100 * more:.2g} %"
