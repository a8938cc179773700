"""The metric that a trial has after its whole training, also of one that was stopped before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.pareto import Objective
from autoprune.record import TrialRecord

_ROUNDED = 1e-6  # of a share


def final_metrics(
    records: Iterable[TrialRecord], metric: Objective, epochs: float
) -> dict[int, float]:
    """Of complete and stopped trials by number; what is not known is left out.

    A stopped trial has its last metric and what complete trials gained from there in the median:
    from the same share of their training after the last removal, of `epochs` in all. Before that
    removal a model looks better than it will be. A model that was trained from scratch says nothing
    of pruned ones.
    """
    ended = [r for r in records if r.state in ("complete", "stopped") and r.baseline != "scratch"]
    ended = [r for r in ended if metric.value(r) is not None]
    stopped = [r for r in ended if r.state == "stopped"]
    places = np.array([_share(r, r.epochs, epochs) for r in stopped])
    later = _remaining_gains([r for r in ended if r.state == "complete"], metric, epochs, places)
    gains = dict(zip((r.number for r in stopped), later, strict=True))
    found = {r.number: (metric.value(r) or 0.0) + gains.get(r.number, 0.0) for r in ended}
    return {number: value for number, value in found.items() if not math.isnan(value)}


def _share(record: TrialRecord, at: float, epochs: float) -> float:
    """How much of the training after its last removal a trial has done at some epoch."""
    last = record.candidate.last_removal
    return (at / epochs - last) / (1.0 - last)


def _remaining_gains(
    records: Sequence[TrialRecord], metric: Objective, epochs: float, places: NDArray[np.float64]
) -> list[float]:
    """At each share, the median gain from there to the end; NaN where no trial says it.

    Each trial's is linear between its evaluations and says nothing before the first one.
    """
    rows = []
    for record in records:
        entries = [it for it in record.history if metric.name in it and "epoch" in it]
        known = [(_share(record, it["epoch"], epochs), it[metric.name]) for it in entries]
        known = [(at, value) for at, value in known if at >= -_ROUNDED]
        if known:
            shares, values = np.array(known).T
            rises = record.metrics[metric.name] - values
            rows.append(np.interp(places + _ROUNDED, shares, rises, left=math.nan))
    columns = np.array(rows).reshape(len(rows), len(places)).T
    said = (column[~np.isnan(column)] for column in columns)
    return [float(np.median(column)) if len(column) else math.nan for column in said]
