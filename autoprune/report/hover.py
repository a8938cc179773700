"""What a point of a plot says when it is pointed at."""

from __future__ import annotations

from html import escape

from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView


def hover(view: RunView, record: TrialRecord) -> str:
    """What a point says: who it is, how it ended, its costs by source, how it was made."""
    name = view.metric.name if view.metric else ""
    value = view.metric_of(record)
    who = record.title + (" int8" if view.is_int8(record) else "")
    lines = [f"<b>{who}</b> · {record.state} · {escape(record.origin)}"]
    if value is not None:
        change = view.change(value)
        beside = f" ({text.change(name, change)} to dense)" if change is not None else ""
        lines.append(f"{escape(name)} {text.metric(name, value)}{beside}")
    for source, cost in (("predicted", record.predicted), ("measured", record.measured)):
        known = [(f, cost.value(f)) for f in view.latencies] if cost is not None else []
        lines += [f"{text.label(f)} {source} {text.cost(f, v)}" for f, v in known if v is not None]
    if record.predicted is not None:
        counts = [(f, view.count(record, f)) for f in ("macs", "params", *view.counts[2:])]
        lines.append(", ".join(f"{text.label(f)} {text.cost(f, v)}" for f, v in counts))
    made = record.candidate
    lines.append(
        f"{made.schedule.kind} · {made.selection.importance} · lr {text.rate(made.recovery.lr)}"
    )
    if record.error:
        lines.append(escape(text.last_line(record.error)[:90]))
    return "<br>".join(lines)
