"""A front as a small HTML table for notebooks."""

from __future__ import annotations

from autoprune.cost_fields import is_cost
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.markup import cell, escape, heads

_COUNTS = ("params", "macs", "weight_bytes")


def front_html(front: ParetoFront, recommended: int | None = None) -> str:
    """A picture of the front, and one row a member by rising cost; picks are marked."""
    names = [objective.name for objective in front.objectives]
    counts = [name for name in _COUNTS if name not in names]
    titles = [_title(front, name) for name in [*names, *counts]]
    knee = front.knee
    rows = "".join(
        f"<tr>{cell(_who(record, _words(record, knee, recommended)), '')}"
        + "".join(cell(escape(_value(front, record, name)), "") for name in [*names, *counts])
        + "</tr>"
        for record in front.members
    )
    caption = f"{len(front)} models on the front"
    head = f"<thead><tr>{heads(('trial', *titles))}</tr></thead>"
    table = f"<table><caption>{caption}</caption>{head}<tbody>{rows}</tbody></table>"
    return front_svg(front, recommended) + table


def _title(front: ParetoFront, name: str) -> str:
    if not is_cost(name):
        return name
    source = f"{front.source_of(name)} " if name.startswith("latency") else ""
    return source + text.label(name)


def _words(record: TrialRecord, knee: TrialRecord | None, recommended: int | None) -> list[str]:
    found = ["recommended"] if record.number == recommended else []
    return [*found, *(["knee"] if record is knee else [])]


def _who(record: TrialRecord, words: list[str]) -> str:
    return f"{record.number} ({', '.join(words)})" if words else str(record.number)


def front_svg(front: ParetoFront, recommended: int | None = None) -> str:
    """The front's metric against its first cost, as SVG; empty with fewer than two members."""
    metric = next((o for o in front.objectives if not is_cost(o.name)), None)
    cost = next((o for o in front.objectives if is_cost(o.name)), None)
    if metric is None or cost is None or len(front) < 2:
        return ""
    points = [(front.value(cost.name, r), front.value(metric.name, r), r) for r in front.members]
    known = [(x, y, r) for x, y, r in points if x is not None and y is not None]
    xs, ys = [x for x, _, _ in known], [y for _, y, _ in known]
    dots = []
    for x, y, record in known:
        left, top = _scaled(x, xs, 40, 380), _scaled(y, ys, 150, 20)
        is_chosen = record.number == recommended
        color, size = ("#d9730d", 6) if is_chosen else ("#2f6fe4", 4)
        words = f"trial {record.number}: {_value(front, record, metric.name)}"
        dots.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size}" fill="{color}">'
            f"<title>{escape(words)}</title></circle>"
        )
    ends = [text.cost(cost.name, value) for value in (min(xs), max(xs))]
    tall = [text.metric(metric.name, value) for value in (max(ys), min(ys))]
    labels = (
        f'<text x="40" y="182">{escape(ends[0])}</text>'
        f'<text x="380" y="182" text-anchor="end">{escape(ends[1])}</text>'
        f'<text x="210" y="182" text-anchor="middle">{escape(_title(front, cost.name))}</text>'
        f'<text x="392" y="24">{escape(tall[0])}</text>'
        f'<text x="392" y="154">{escape(tall[1])}</text>'
        f'<text x="40" y="12">{escape(metric.name)}</text>'
    )
    return (
        '<svg viewBox="0 0 460 190" width="460" height="190" role="img" font-size="11" '
        f'fill="currentColor" aria-label="front">{labels}'
        '<path d="M30 16v148h362" fill="none" stroke="currentColor" opacity="0.3"/>'
        f"{''.join(dots)}</svg>"
    )


def _scaled(value: float, values: list[float], start: float, end: float) -> float:
    low, high = min(values), max(values)
    return start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _value(front: ParetoFront, record: TrialRecord, name: str) -> str:
    value = front.value(name, record)
    return text.cost(name, value) if is_cost(name) else text.metric(name, value)
