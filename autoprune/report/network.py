"""The network layer by layer: a picture of each model beside the dense one, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape as plain_escape
from typing import Any

from autoprune.architecture import FLOAT32
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import cell, escape, folded, heads, section
from autoprune.report.style import Figure, axis, layout
from autoprune.store import LayerCosts, LayerInfo, Network

_MOST = 8  # models that can be chosen
_LABELS = 48  # layers that are named below the picture
_OFTEN = 0.1  # of the time: such a layer is named in the table


def shown(view: RunView) -> list[tuple[str, TrialRecord]]:
    """The models with a picture: the picks first, then others from cheap to dear."""
    if view.network is None or view.front is None:
        return []
    found = view.recommendation
    picks = [
        ("recommended", found.record if found else None),
        ("knee", view.front.knee),
        ("best", view.front.best()),
        ("cheapest", view.members[0] if view.members else None),
    ]
    named: dict[int, tuple[str, TrialRecord]] = {}
    for word, record in picks:
        if record is not None:
            named.setdefault(record.number, (f"{word} · trial {record.number}", record))
    for record in view.members:
        named.setdefault(record.number, (f"trial {record.number}", record))
    known = [pair for number, pair in named.items() if str(number) in view.network.models]
    return [(f"{label}{_precision(record)}", record) for label, record in known[:_MOST]]


def _precision(record: TrialRecord) -> str:
    precision = record.candidate.architecture.precision
    return "" if precision == FLOAT32 else f" · {precision}"


def figures(view: RunView) -> dict[str, Figure]:
    """A picture for each of `shown`, by the trial's number."""
    network = view.network
    if network is None:
        return {}
    return {
        str(record.number): {"label": label, **_figure(network, str(record.number))}
        for label, record in shown(view)
    }


def network(view: RunView, drawn: Mapping[str, Any]) -> str:
    """The pictures with a choice of the model, and the recommended model's layers as a table."""
    pictures = drawn.get("network")
    if not pictures or view.network is None:
        return ""
    first = next(iter(pictures))
    buttons = "".join(
        f'<button type="button" data-key="{key}" aria-pressed="{str(key == first).lower()}">'
        f"{escape(figure['label'])}</button>"
        for key, figure in pictures.items()
    )
    time = (
        f" Below, the estimated {escape(text.label(view.network.latency))} of each layer: its part "
        "of the predicted one; operators between the layers are not shown."
        if view.network.latency
        else ""
    )
    return section(
        "Network",
        "<p>Output channels of every layer, in the order of execution: gray is the dense model, "
        f"color what is left; a cross is a layer that is gone.{time}</p>"
        '<div class="axes" role="group" aria-label="model" data-for="network-plot">'
        f"{buttons}</div>"
        f'<div class="plot" id="network-plot" data-figure="network" data-axis="{first}"></div>'
        + _table(view, view.network, first),
    )


def _figure(network: Network, key: str) -> Figure:
    dense, small = network.models["dense"], network.models[key]
    places = list(range(len(network.layers)))
    said = [
        plain_escape(_said(layer, before, after))
        for layer, before, after in zip(network.layers, dense.widths, small.widths, strict=True)
    ]
    hover = {"text": said, "hovertemplate": "%{text}<extra></extra>", "textposition": "none"}
    traces: list[Figure] = [
        _bars(places, dense.widths, "--faint", 0.9) | hover,
        _bars(places, small.widths, "--accent", 0.56) | hover,
    ]
    gone = [place for place, width in enumerate(small.widths) if not width]
    if gone:
        marker = {"symbol": "x", "size": 9, "color": "--bad"}
        crosses = {"type": "scatter", "mode": "markers", "x": gone, "y": [0] * len(gone)}
        traces.append(crosses | {"marker": marker, "hoverinfo": "skip", "cliponaxis": False})
    has_time = bool(dense.ms and small.ms)
    if has_time:
        unit = "<extra>%{y:.3g} ms</extra>"
        names = [plain_escape(layer.name) for layer in network.layers]
        below = {"yaxis": "y2", "text": names, "textposition": "none"}
        below |= {"hovertemplate": "%{text}" + unit}
        traces += [
            _bars(places, dense.ms, "--faint", 0.9) | below,
            _bars(places, small.ms, "--baseline", 0.56) | below,
        ]
    return {"data": traces, "layout": _layout(network, has_time)}


def _layout(network: Network, has_time: bool) -> Figure:
    count = len(network.layers)
    every = max(1, -(-count // _LABELS))
    full = [layer.name for layer in network.layers]
    names = [name if len(name) < 22 else "…" + name[-20:] for name in full]
    ticks = {
        "tickvals": list(range(0, count, every)),
        "ticktext": [plain_escape(name) for name in names[::every]],
        "tickangle": -60,
        "tickfont": {"size": 10},
        "range": [-0.7, count - 0.3],
        "showgrid": False,
    }
    drawn = layout(
        height=430 if has_time else 320,
        barmode="overlay",
        bargap=0.1,
        xaxis=axis("", **ticks, anchor="y2" if has_time else "y"),
        yaxis=axis("channels", domain=[0.44 if has_time else 0, 1], rangemode="tozero"),
    )
    if has_time:
        drawn["yaxis2"] = axis("ms", domain=[0, 0.34], rangemode="tozero")
    return drawn


def _bars(places: list[int], heights: Sequence[float], color: str, width: float) -> Figure:
    return {
        "type": "bar",
        "x": places,
        "y": [round(float(height), 5) for height in heights],
        "width": width,
        "marker": {"color": color},
    }


def _said(layer: LayerInfo, before: int, after: int) -> str:
    change = f"{before} → {after} channels" if after else f"{before} channels → gone"
    inside = f" · block {layer.block}" if layer.block else ""
    return f"{layer.name}: {change}{inside}"


_COLUMNS = ("layer", "channels", "MACs", "estimated ms", "of the time", "remarks")


def _table(view: RunView, network: Network, key: str) -> str:
    """Every layer of one model beside the dense one, with why it is as it is."""
    dense, small = network.models["dense"], network.models[key]
    rows = "".join(
        _row(view, layer, place, dense, small) for place, layer in enumerate(network.layers)
    )
    columns = [c for c in _COLUMNS if small.ms or c not in ("estimated ms", "of the time")]
    head = f'<thead><tr>{heads(columns[:-1])}<th class="l">{columns[-1]}</th></tr></thead>'
    table = f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    return folded(f"Layers of trial {key}: before and after, and why", table)


def _row(view: RunView, layer: LayerInfo, place: int, dense: LayerCosts, small: LayerCosts) -> str:
    cells = [
        cell(escape(layer.name), "", "l"),
        cell(_change(str(dense.widths[place]), str(small.widths[place])), ""),
        cell(_change(*(text.cost("macs", c.macs[place]) for c in (dense, small))), ""),
    ]
    if small.ms and dense.ms:
        before, after = (text.three_digits(costs.ms[place]) for costs in (dense, small))
        cells.append(cell(_change(before, after), ""))
        cells.append(cell(text.share(small.ms[place], sum(small.ms)), ""))
    remarks = "; ".join(_remarks(view, layer, place, dense, small))
    return f"<tr>{''.join(cells)}{cell(escape(remarks), '', 'l wrap')}</tr>"


def _change(before: str, after: str) -> str:
    return escape(before if before == after else f"{before} → {after}")


def _remarks(
    view: RunView, layer: LayerInfo, place: int, dense: LayerCosts, small: LayerCosts
) -> list[str]:
    """Why a layer is as it is."""
    found = []
    if not small.widths[place]:
        found.append(f"dropped with block {layer.block}" if layer.block else "gone")
    reason = next((item.reason for item in view.frozen if item.name == layer.name), "")
    low_high = view.plan.space.ranges.get(layer.group) if view.plan and layer.group else None
    if low_high is not None:
        most = f"{100 * low_high[1]:.0f} %"
        found.append("kept (keep)" if low_high[1] <= 0.0 else f"at most {most} pruned (bounds)")
    elif reason:
        found.append(f"not prunable: {reason}")
    elif not layer.group:
        found.append("outputs are not prunable")
    network = view.network or Network()
    others = [it.name for it in network.layers if it.group == layer.group and it != layer]
    if layer.group and others:
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        found.append(f"same channels as {', '.join(others[:2])}{more}")
    parts = small.ms or small.macs
    if parts and parts[place] > _OFTEN * sum(parts):
        found.append("among the slowest" if small.ms else "among the largest")
    return found
