"""Plot specifications as plain dictionaries in plotly's JSON: data in, no drawing here.

A string `--name` where a color belongs is a color of the page's theme, `--heat P` the one at P %
of its scale; the page resolves them, so that one specification serves light, dark and print. Text
that a user wrote is escaped, because plotly reads markup in labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autoprune.cost_fields import split_field
from autoprune.pareto import hypervolume as volume_of
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.front_axes import cost_of
from autoprune.report.style import Figure, axis, colors, layout, level

_PLAIN_AXIS: Figure = {
    "automargin": True,
    "fixedrange": True,
    "showgrid": False,
    "ticks": "",
    "zeroline": False,
}
_STEP_HOVER = "%{x:.0f} % of training: %{y:.0f} % pruned<extra>%{fullData.name}</extra>"


def ratios(view: RunView) -> Figure | None:
    """Removed fraction of every group (rows) in every member (columns), then zeros of weights."""
    shares = [_removed_and_zeros(view, record) for record in view.members]
    groups = list(shares[0]) if shares else []
    if not groups:
        return None
    short = [escape(name if len(name) <= 16 else "…" + name[-15:]) for name in groups]
    columns = [f"#{record.number}" for record in view.members]
    cells = [
        (column, place, name, round(100 * share[name], 1))
        for place, name in enumerate(groups)
        for column, share in zip(columns, shares, strict=True)
    ]
    row = 24 if len(groups) <= 30 else 16
    trace: Figure = {
        "type": "bar",  # a bar of height 1 for each cell
        "x": [column for column, _, _, _ in cells],
        "base": [place - 0.46 for _, place, _, _ in cells],
        "y": [0.92] * len(cells),
        "marker": {"color": [f"--heat {percent:g}" for _, _, _, percent in cells]},
        "customdata": [[escape(name), percent] for _, _, name, percent in cells],
        "hovertemplate": "trial %{x}<br>%{customdata[0]}<br><b>%{customdata[1]:.0f} % pruned</b>"
        "<extra></extra>",
    }
    if len(groups) <= 40 and len(columns) <= 14:
        ink = ["--heat-ink-2" if percent > 65 else "--heat-ink" for _, _, _, percent in cells]
        trace |= {"texttemplate": "%{customdata[1]:.0f}"}
        trace |= {"textfont": {"size": 11, "color": ink}}
        trace |= {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
    ticks = {"tickvals": list(range(len(groups))), "ticktext": [escape(name) for name in groups]}
    drawn = layout(
        height=row * len(groups) + 50,
        xaxis={"side": "top", "type": "category", **_PLAIN_AXIS},
        yaxis={"range": [len(groups) - 0.5, -0.5], **_PLAIN_AXIS, **ticks},
        barmode="overlay",
        bargap=0.03,
    )
    narrow = {"yaxis.ticktext": short, "font.size": 11}
    return {"data": [trace], "layout": drawn, "narrow": narrow, "narrow_text": False}


def _removed_and_zeros(view: RunView, record: TrialRecord) -> dict[str, float]:
    """By group what is removed, and by `zeros in <weight>` the share of zeros."""
    zeros = {f"zeros in {name}": share for name, share in view.zeros(record).items()}
    return {**view.removed(record), **zeros}


def schedules(view: RunView) -> Figure | None:
    """Removed share of the prunable units against training progress, a stair a member."""
    traces = []
    for record, color in _colored(view):
        total, x, y = 100 * _removed_share(view, record), [0.0], [0.0]
        for at, share in record.candidate.schedule.milestones():
            x.append(100 * at)
            y.append(total * share)
        traces.append(
            _line(f"trial {record.number} · {record.candidate.schedule.kind}", color)
            | {"x": [*x, 100.0], "y": [*y, y[-1]], "line": {"color": color, "shape": "hv"}}
            | {"hovertemplate": _STEP_HOVER}
        )
    drawn = layout(
        xaxis=axis("training progress, %", range=[-2, 102]),
        yaxis=axis("pruned units, %", rangemode="tozero"),
    )
    return {"data": traces, "layout": drawn} if traces else None


MOST = 200  # other trials whose histories are drawn, the newest


def history(view: RunView, name: str) -> Figure | None:
    """A quantity of the training history against the epoch: members in color, others gray."""
    scale = 100.0 if text.is_share(name) else 1.0
    members = {record.number for record in view.members}
    others = [r for r in view.records if r.number not in members and len(r.history) > 1][-MOST:]
    faint = [_history(r, name, scale, "--faint") | {"hoverinfo": "skip"} for r in others]
    traces = faint + [_history(r, name, scale, color) for r, color in _colored(view)]
    traces = [trace for trace in traces if trace["x"]]
    if not traces:
        return None
    unit = ", %" if scale > 1 else ""
    drawn = layout(xaxis=axis("epoch", rangemode="tozero"), yaxis=axis(f"{escape(name)}{unit}"))
    dense = view.dense.metrics.get(name)
    if dense is not None and view.metric and name == view.metric.name:
        drawn["shapes"] = [level(scale * dense)]
    return {"data": traces, "layout": drawn}


def prediction(view: RunView, field: str) -> Figure | None:
    """Measured against predicted latency of the models that have both, and the line of equals.

    In gray the held-out models of the predictor.
    """
    pairs = [
        (cost_of(r, "predicted", field), cost_of(r, "measured", field), r.number)
        for r in view.records
    ]
    known = [(p, m, f"trial {n}") for p, m, n in pairs if p is not None and m is not None]
    if len(known) < 2:
        return None
    profile = view.devices.get(split_field(field)[1])
    dense_ms = profile.dense_ms if profile else None
    fractions = profile.held_out if profile and dense_ms else ()
    held_out = [
        (p * dense_ms, m * dense_ms, "held-out random pruning") for m, p in fractions if dense_ms
    ]
    top = 1.08 * max(max(p, m) for p, m, _ in known + held_out)
    equal = {"x": [0, top], "y": [0, top], "mode": "lines", "hoverinfo": "skip"}
    drawn = layout(
        xaxis=axis("predicted, ms", range=[0, top]), yaxis=axis("measured, ms", range=[0, top])
    )
    line = equal | {"line": {"color": "--faint", "width": 1}}
    return {
        "data": [line, _pairs(held_out, "--faint-2", 5), _pairs(known, "--accent", 8)],
        "layout": drawn,
    }


def hypervolume(view: RunView) -> Figure | None:
    """The hypervolume of the front by predicted cost after each trial that counts."""
    front = view.front
    if front is None or front.reference is None or view.plan is None:
        return None
    ended = [r for r in view.records if r.state in ("complete", "stopped")]
    if len(ended) < 3:
        return None
    signs = [objective.sign for objective in front.objectives]
    reference = [sign * value for sign, value in zip(signs, front.reference, strict=True)]
    x, y, points = [0], [0.0], list[tuple[float, ...]]()
    for record in ended:
        point = _point(view, record, signs)
        x.append(x[-1] + 1)
        y.append(y[-1])
        if point is not None and not any(_no_worse(other, point) for other in points):
            points = [*(other for other in points if not _no_worse(point, other)), point]
            y[-1] = volume_of(points, reference)
    whole = y[-1] or 1.0
    line = _line("hypervolume", "--accent") | {"x": x, "y": [100 * value / whole for value in y]}
    line |= {"line": {"color": "--accent", "shape": "hv"}}
    line |= {"hovertemplate": "%{x} trials: %{y:.1f} %<extra></extra>"}
    drawn = layout(
        height=260,
        xaxis=axis("trials that were trained", rangemode="tozero"),
        yaxis=axis("hypervolume, % of the last", rangemode="tozero"),
    )
    return {"data": [line], "layout": drawn}


def _point(view: RunView, record: TrialRecord, signs: Sequence[float]) -> tuple[float, ...] | None:
    """What a complete trial within the limits has of each objective, minimized, as predicted."""
    limits = view.plan.limits if view.plan else {}
    costs = ((cost_of(record, "predicted", name), most) for name, most in limits.items())
    within = all(value is None or value <= most for value, most in costs)
    objectives = view.front.objectives if view.front else ()
    values = [objective.value(record) for objective in objectives]
    known = [value for value in values if value is not None]
    if record.state != "complete" or not within or len(known) < len(values):
        return None
    return tuple(sign * value for sign, value in zip(signs, known, strict=True))


def _no_worse(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def importances(view: RunView, most: int = 12) -> dict[str, Figure]:
    """For each objective the search variables that mattered most, as shares."""
    figures = {}
    for objective, shares in view.importances.items():
        ranked = sorted(shares.items(), key=lambda item: item[1])[-most:]
        bars = {
            "type": "bar",
            "orientation": "h",
            "x": [100 * value for _, value in ranked],
            "y": [escape(name) for name, _ in ranked],
            "marker": {"color": "--accent"},
            "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
        }
        drawn = layout(
            height=26 * len(ranked) + 60,
            xaxis=axis("share of importance, %", rangemode="tozero"),
            yaxis={"automargin": True, "fixedrange": True, "type": "category"},
            bargap=0.4,
        )
        figures[objective] = {"data": [bars], "layout": drawn}
    return figures


def _history(record: TrialRecord, name: str, scale: float, color: str) -> Figure:
    known = [entry for entry in record.history if name in entry and "epoch" in entry]
    small = color.startswith("--")
    return _line(f"trial {record.number}", color) | {
        "x": [entry["epoch"] for entry in known],
        "y": [scale * entry[name] for entry in known],
        "mode": "lines" if small else "lines+markers",
        "line": {"color": color, "width": 1 if small else 2},
        "marker": {"size": 5},
        "hovertemplate": "epoch %{x:.3g}: %{y:.4g}<extra>%{fullData.name}</extra>",
    }


def _line(name: str, color: str) -> Figure:
    return {"type": "scatter", "mode": "lines", "name": escape(name), "line": {"color": color}}


def _colored(view: RunView) -> list[tuple[TrialRecord, str]]:
    return list(zip(view.members, colors(len(view.members)), strict=True))


def _removed_share(view: RunView, record: TrialRecord) -> float:
    """The removed fraction of all prunable units; groups weigh by size where it is known."""
    removed = view.removed(record)
    weights = {name: view.groups.get(name) or 1 for name in removed}
    whole = sum(weights.values())
    return sum(removed[name] * weights[name] for name in removed) / whole if whole else 0.0


def _pairs(known: Sequence[tuple[float, float, str]], color: str, size: int) -> Figure:
    return {
        "x": [predicted for predicted, _, _ in known],
        "y": [measured for _, measured, _ in known],
        "text": [name for _, _, name in known],
        "mode": "markers",
        "marker": {"color": color, "size": size, "opacity": 0.85},
        "hovertemplate": "%{text}<br>predicted %{x:.3g} ms<br>measured %{y:.3g} ms<extra></extra>",
    }
