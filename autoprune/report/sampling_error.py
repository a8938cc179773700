"""Differences of metrics that are shares of validation samples, and what chance makes of them."""

from __future__ import annotations

import math
from typing import NamedTuple

from autoprune.report.data import RunView


class Neighbor(NamedTuple):
    """A member of the front: its trial's number and its value of the metric."""

    number: int
    value: float


def nearest(view: RunView) -> Neighbor | None:
    """The member that is nearest to the recommended one in the metric; None where it is alone."""
    found = view.recommendation
    value = view.metric_of(found.record) if found else None
    if found is None or value is None:
        return None
    others = [
        Neighbor(record.number, other)
        for record in view.members
        if record.number != found.record.number and (other := view.metric_of(record)) is not None
    ]
    return min(others, key=lambda it: (abs(it.value - value), it.number), default=None)


def error_of_difference(one: float, other: float, count: int) -> float:
    """The standard error of a difference of two shares of `count` samples.

    As if each had samples of its own: of models that are wrong on the same ones it is smaller. A
    share of nothing or of all counts as one sample away from it.

    >>> round(error_of_difference(0.9, 0.9, 10_000), 4)   # of each 0.003
    0.0042
    """
    variances = (max(share * (1.0 - share), 1.0 / count) for share in (one, other))
    return math.sqrt(sum(variances) / count)


def apart(gap: float, count: int) -> str:
    """By how much two shares of `count` samples differ, in words.

    >>> apart(0.0028, 359), apart(0.0, 359)
    ('they differ by 0.28 pt, as much as 1 sample', 'they are equal')
    """
    samples = round(gap * count)
    if not samples:
        return "they are equal"
    return f"they differ by {100 * gap:.2g} pt, as much as {samples} sample{'s' * (samples != 1)}"


def allowed_loss(view: RunView) -> float | None:
    """How much worse than dense the limits allow the metric to be; None where they do not say."""
    found, metric = view.recommendation, view.metric
    dense = view.dense.metrics.get(metric.name) if metric else None
    if found is None or metric is None or dense is None:
        return None
    losses = (
        metric.sign * (limit.bound(dense, metric.direction == "maximize") - dense)
        for limit in found.limits
        if limit.metric == metric.name
    )
    return max(0.0, min(losses, default=0.0)) or None
