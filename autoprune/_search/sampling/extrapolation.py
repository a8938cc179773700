"""The metric that a trial has after its whole training, also of one that was stopped before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from autoprune.pareto import Objective
from autoprune.record import TrialRecord


def final_metrics(records: Iterable[TrialRecord], metric: Objective) -> dict[int, float]:
    """Of complete and stopped trials by number; what is not known is left out.

    A stopped trial has its last metric and what complete trials gained from there in the median.
    A model that was trained from scratch says nothing of pruned ones.
    """
    ended = [r for r in records if r.state in ("complete", "stopped") and r.baseline != "scratch"]
    gains = _remaining_gains(ended, metric.name)
    found = {}
    for record in ended:
        value = metric.value(record)
        later = _at(gains, record.epochs) if record.state == "stopped" else 0.0
        if value is not None and not math.isnan(later):
            found[record.number] = value + later
    return found


def _remaining_gains(records: Sequence[TrialRecord], metric: str) -> dict[float, float]:
    """By epoch, the median gain of complete trials from there to their end."""
    rises: dict[float, list[float]] = {}
    for record in records:
        if record.state == "complete" and metric in record.metrics:
            for entry in record.history:
                if metric in entry and "epoch" in entry:
                    rise = record.metrics[metric] - entry[metric]
                    rises.setdefault(round(entry["epoch"], 6), []).append(rise)
    return {epoch: median(found) for epoch, found in rises.items()}


def _at(gains: Mapping[float, float], epochs: float) -> float:
    """A gain after so many epochs, linear between those that are known; NaN before all of them.

    Trials that are pruned later are evaluated later.
    """
    known = sorted(gains)
    if not known:
        return math.nan
    left = gains[known[0]] if epochs >= known[0] - 1e-6 else math.nan
    return float(np.interp(epochs, known, [gains[at] for at in known], left=left))
