"""Why a model is recommended, in words."""

from __future__ import annotations

from autoprune.cost_fields import is_cost
from autoprune.quality import QualityLimit
from autoprune.report import text
from autoprune.report.data import RunView


def limits_in_words(view: RunView) -> str:
    """What the recommended model had to meet, with the values behind relative limits."""
    found = view.recommendation
    return " and ".join(_limit(view, limit) for limit in found.limits) if found else ""


def why(view: RunView) -> str:
    """Why the recommended model is that one; empty without a front."""
    found = view.recommendation
    if found is None:
        return ""
    if found.unknown:
        return f"the knee: the dense model's {found.unknown} is not known"
    asked = limits_in_words(view)
    if not found.is_within:
        return f"no model of the front has {asked}; this one is the nearest{_retrained(view)}"
    cost = f"the lowest {_cost_name(view, found.cost)}" if found.cost else "the first"
    if len(found.within) == 1:
        return f"the only model of the front with {asked}"
    return f"{cost} of the {len(found.within)} models with {asked}"


def _retrained(view: RunView) -> str:
    """What the recommended model, retrained, has on validation data, where that is enough."""
    found = view.recommendation
    reached = [r for r in view.retrained if found and r.number == found.record.number]
    if not reached or view.metric is None or not view.is_good_enough(reached[-1]):
        return ""
    after, name = reached[-1], view.metric.name
    value = text.metric(name, after.validation[name].mean)
    return f", and has {value} on validation data after {after.epochs:g} epochs of retraining"


def _cost_name(view: RunView, cost: str) -> str:
    name = text.label(cost)
    if not is_cost(cost) or not cost.startswith("latency") or view.front is None:
        return name
    return f"{view.front.source_of(cost)} {name}"


def _limit(view: RunView, limit: QualityLimit) -> str:
    dense = view.dense.metrics.get(limit.metric)
    if not limit.is_relative or dense is None:
        sign = {">=": "≥", "<=": "≤"}.get(limit.kind)
        if sign is None:
            return str(limit)
        return f"{limit.metric} {sign} {text.metric(limit.metric, limit.value)}"
    maximize = view.metric is None or view.metric.direction == "maximize"
    bound = text.metric(limit.metric, limit.bound(dense, maximize))
    drop = (
        f"{100 * limit.value:.3g} % of it"
        if limit.kind == "relative drop"
        else text.change(limit.metric, limit.value).lstrip("+")
    )
    sign, word = ("≥", "less") if maximize else ("≤", "plus")
    return f"{limit.metric} {sign} {bound} (dense {word} {drop})"
