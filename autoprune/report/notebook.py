"""A front as a small HTML table for notebooks."""

from __future__ import annotations

from autoprune.cost_fields import is_cost
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.markup import cell, escape, heads

_COUNTS = ("params", "macs", "weight_bytes")


def front_html(front: ParetoFront) -> str:
    """One row a member by rising cost: its objectives, and its size; the knee is marked."""
    names = [objective.name for objective in front.objectives]
    counts = [name for name in _COUNTS if name not in names]
    titles = [_title(front, name) for name in [*names, *counts]]
    knee = front.knee
    rows = "".join(
        f"<tr>{cell(_who(record, record is knee), '')}"
        + "".join(cell(escape(_value(front, record, name)), "") for name in [*names, *counts])
        + "</tr>"
        for record in front.members
    )
    caption = f"{len(front)} models on the front"
    return (
        f"<table><caption>{caption}</caption><thead><tr>{heads(('trial', *titles))}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _title(front: ParetoFront, name: str) -> str:
    if not is_cost(name):
        return name
    source = f"{front.source_of(name)} " if name.startswith("latency") else ""
    return source + text.label(name)


def _who(record: TrialRecord, is_knee: bool) -> str:
    return f"{record.number}{' (knee)' if is_knee else ''}"


def _value(front: ParetoFront, record: TrialRecord, name: str) -> str:
    value = front.value(name, record)
    return text.cost(name, value) if is_cost(name) else text.metric(name, value)
