"""The costs that a front may be drawn against, and their units."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.budget import Cost
from autoprune.cost_fields import is_cost
from autoprune.pareto import CostSource
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView

MOST = 500  # trials of one kind off the front that are drawn, the newest
Axis = tuple[str, CostSource, str, str]  # key, source, cost, label
_COUNTS: tuple[Axis, ...] = (
    ("macs", "predicted", "macs", "MACs"),
    ("params", "predicted", "params", "Parameters"),
    ("weight_bytes", "predicted", "weight_bytes", "Weight bytes"),
    ("peak_memory_bytes", "predicted", "peak_memory_bytes", "Peak memory"),
    ("measured.file_bytes", "measured", "file_bytes", "File bytes"),
    ("file_bytes", "predicted", "file_bytes", "File bytes, predicted"),
)


def axes(view: RunView) -> tuple[Axis, ...]:
    """Every cost that the front may be drawn against: each device's latency, then the counts."""
    sources: tuple[CostSource, ...] = ("measured", "predicted")
    latencies: list[Axis] = []
    for field in view.latencies:
        label = text.label(field).replace("latency", "Latency", 1)
        latencies += [(f"{s}.{field}", s, field, f"{label}, {s}") for s in sources]
    return (*latencies, *_COUNTS)


def default_axis(view: RunView, axes: Sequence[str]) -> str | None:
    """The axis to show first: the searched cost, measured when every member was measured."""
    names = [o.name for o in view.front.objectives] if view.front else []
    costs = [name for name in names if is_cost(name)]
    wanted = [key for name in costs for key in (*_measured(view, name), f"predicted.{name}", name)]
    return next((key for key in [*wanted, *axes] if key in axes), None)


def _measured(view: RunView, name: str) -> list[str]:
    """The axis of a measured cost, where every member was measured."""
    costs = [record.measured for record in view.members]
    known = costs and all(cost is not None and cost.value(name) is not None for cost in costs)
    return [f"measured.{name}"] if known else []


def cost_of(record: TrialRecord, source: CostSource, field: str) -> float | None:
    """One field of the record's cost by source; None where it was not determined."""
    cost: Cost | None = getattr(record, source)
    return cost.value(field) if cost is not None else None


def scale_of(view: RunView, field: str) -> tuple[float, str]:
    """Divisor and unit in which the largest value of a cost has one to three digits."""
    if field.startswith("latency"):
        return 1.0, "ms"
    costs = [view.dense.predicted, *(record.predicted for record in view.records)]
    top = max((getattr(cost, field, None) or 0 for cost in costs), default=0)
    units = ("B", "kB", "MB", "GB") if field.endswith("bytes") else ("count", "k", "M", "G")
    step = max((k for k in range(4) if top >= 1000**k), default=0)
    return 1000.0**step, units[step]
