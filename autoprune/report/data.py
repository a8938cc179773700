"""A run folder as one plain view: what the tables and the page show, with what is missing as None.

A run may still be in progress: no front, no measured latency, no retrained model. Everything that
a view cannot know is None or empty here, and is named as unknown by what draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprune.architecture import INT8
from autoprune.budget import Cost, Limit
from autoprune.cost_fields import FILE, MEMORY, is_latency, split_field
from autoprune.errors import BudgetError
from autoprune.pareto import CostSource
from autoprune.recommendation import Recommendation, recommend, violations
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.contents import BY_GOAL, RunContents
from autoprune.store import DenseReport, RetrainingSummary

_SAME = 0.01  # of a limit: below, that of predictions is not told apart


@dataclass(frozen=True)
class Verdict:
    """How one member compares with the dense model, in words, and whether it is better."""

    text: str
    good: bool | None


@dataclass(frozen=True)
class RunView(RunContents):
    """A run with what follows from it: limits, levels, the recommended model, verdicts."""

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """The recommended member, with the limits that it had to meet."""
        if self.front is None or self.metric is None:
            return None
        limits = self.config.recommended_within(self.metric.name)
        return recommend(self.front, self.dense.metrics, limits)

    def is_good_enough(self, model: TrialRecord | RetrainingSummary) -> bool:
        """Whether its validation metrics meet the limits of the recommended model."""
        found = self.recommendation
        if found is None or found.unknown or self.front is None:
            return False
        metrics: Mapping[str, float] = (
            model.metrics
            if isinstance(model, TrialRecord)
            else {name: spread.mean for name, spread in model.validation.items()}
        )
        dense, objectives = self.dense.metrics, self.front.objectives
        return not violations(metrics, dense, found.limits, objectives)

    @cached_property
    def near_miss(self) -> TrialRecord | None:
        """The cheapest of the models that are good enough, but over the budget as measured."""
        cost = self.cost
        good = [
            (value, record)
            for record in self.records
            if record.state == "complete" and self.over_budget(record)
            if cost is not None and (value := cost.value(record, "measured")) is not None
            if self.is_good_enough(record)
        ]
        return min(good, key=lambda pair: pair[0])[1] if good else None

    @property
    def limits(self) -> tuple[tuple[Limit, float | None], ...]:
        """Each limit of the budget with its absolute value, None while dense is not known.

        A share of dense means the measured dense latency once there is one.
        """
        return tuple((limit, self._resolved(limit)) for limit in self.config.budget.limits)

    @property
    def limits_of_predictions(self) -> tuple[str, ...]:
        """The limits that predictions were held against, where they are not the measured ones.

        A share of dense was taken of the predicted dense cost, and a margin was left below.
        """
        found = []
        for limit, value in self.limits:
            most = self.plan.limits.get(limit.field) if self.plan else None
            if self.plan is None or most is None or value is None:
                continue
            margin, dense = self.plan.margins.get(limit.field, 0.0), self.plan.dense
            most /= 1.0 + margin
            if abs(most / value - 1.0) >= _SAME:
                whole = dense.value(limit.field)
                found.append(text.limit_of_predictions(limit, most, whole, margin))
        return tuple(found)

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

    def speedup(
        self, record: TrialRecord, field: str, source: CostSource = "measured"
    ) -> float | None:
        """How many times faster than dense, both by `source`; None where either is not known."""
        return speedup(getattr(self.dense, source), getattr(record, source), field)

    def is_predicted_only(self, field: str) -> bool:
        """Whether the search has ended without a way to measure this latency."""
        return self.front is not None and self.finished and self.source_of(field) == "predicted"

    @cached_property
    def has_predicted_latency(self) -> bool:
        """Whether any model of the tables has a predicted latency."""
        records = (*self.members, *self.baselines)
        costs = (self.dense.predicted, *(record.predicted for record in records))
        return any(cost.value(field) for cost in costs if cost for field in self.latencies)

    def source_of(self, field: str) -> CostSource:
        """Which latency the front was made with: measured, or predicted."""
        return self.front.source_of(field) if self.front else "predicted"

    def count(self, model: TrialRecord | DenseReport, field: str) -> float | None:
        """A count as predicted, which is exact; of `BY_GOAL`, by the source of the front."""
        if field in BY_GOAL:
            cost: Cost | None = getattr(model, self.source_of(field))
        else:
            cost = model.predicted or model.measured
        return cost.value(field) if cost else None

    @property
    def goal_notes(self) -> tuple[str, ...]:
        """Whether the counts of `BY_GOAL` that are shown are measured or predicted."""
        has_int8 = INT8 in self.config.space.precisions
        file = "File: compressed, of int8 models ONNX, as" if has_int8 else "File: compressed, as"
        words = {FILE: file, MEMORY: "Peak memory: as"}
        return tuple(f"{words[f]} {self.source_of(f)}" for f in BY_GOAL if f in self.counts)

    @cached_property
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
        if self.metric is None or cost is None or value is None or record.baseline == "uniform":
            return None
        at, points = cost.value(record, self.gain_source), self._uniform_points(self.gain_source)
        if at is None or len(points) < 2 or not points[0][0] <= at <= points[-1][0]:
            return None
        base = float(np.interp(at, [x for x, _ in points], [y for _, y in points]))
        return self.metric.sign * (base - value)

    def over_budget(self, record: TrialRecord) -> str | None:
        """The first limit that the measured model breaks, as words; None where it breaks none.

        A share of dense latency is compared with the ratio to the dense model that was measured in
        turns: a device may change its speed between a model and the next.
        """
        for limit, _ in self.limits:
            base, device = split_field(limit.field)
            bound = self.bound(limit, "measured")
            got = record.measured.value(limit.field) if record.measured else None
            sure = record.measured.confidence_of(device) if record.measured else None
            on = f" on {device}" if device else ""
            if limit.relative and base == "latency_ms" and sure is not None and got is not None:
                if sure.ratio > limit.value:
                    share = f"{100 * sure.ratio:.3g} % of dense > {100 * limit.value:g} %"
                    return f"{text.cost(limit.field, got)}, {share}{on}"
            elif bound is not None and got is not None and got > bound:
                return f"{text.cost(limit.field, got)} > {text.cost(limit.field, bound)}{on}"
        return None

    def verdict(self, record: TrialRecord) -> Verdict:
        """Whether this model is really faster than the dense one, as measured, and within budget.

        On each device in turn; where it could not be measured, the prediction, named as such.
        """
        over = self.over_budget(record)
        if over:
            return Verdict(f"over the budget as measured: {over}", False)
        parts = [self._faster(record, field) for field in self.latencies]
        known = [part.good for part in parts if part.good is not None]
        return Verdict("; ".join(part.text for part in parts), all(known) if known else None)

    def reduced(self, record: TrialRecord) -> str:
        """How much less than dense a model has of each count that was searched for, in words.

        Empty where the goals are latencies alone.
        """
        found = []
        for field in (field for field in text.LABELS if field in self.goals):
            least, whole = self.count(record, field), self.count(self.dense, field)
            if not is_latency(field) and least and whole and whole / least >= 1.01:
                word = "smaller" if field.endswith("bytes") else "fewer"
                found.append(f"{text.label(field)} {_times(whole / least)} {word} than dense")
        return ", ".join(found)

    def _faster(self, record: TrialRecord, field: str) -> Verdict:
        """One device's part of the verdict; below 2 % either way counts as no difference."""
        device = split_field(field)[1]
        on = f" on {device}" if device else ""
        source: CostSource = "predicted" if self.is_predicted_only(field) else "measured"
        ratio = self.speedup(record, field, source)
        if ratio is None:
            return Verdict(f"latency not measured{on}", None)
        tail = f"{on}, {source}"
        good = source == "measured" or None
        if ratio >= 1.02:
            return Verdict(f"{_times(ratio)} faster than dense{tail}", good)
        if ratio > 0.98:
            return Verdict(f"as fast as dense{tail}", False)
        return Verdict(f"{_times(1.0 / ratio)} slower than dense{tail}", False)

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
