"""The network layer by layer: a picture and a table of each model of the front, beside dense.

The page draws one model at a time. What all of them share is written once; for each model follow
the values that the page puts into the picture, and the cells of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape as plain_escape
from typing import Any

from autoprune.architecture import FLOAT32
from autoprune.cost_fields import split_field
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.layer_remarks import LayerRemarks
from autoprune.report.markup import cell, escape, folded, heads, section
from autoprune.report.style import Figure, axis, layout
from autoprune.report.summary import lowest_cost_word
from autoprune.store import LayerCosts, LayerInfo, Network

_TIMED = (
    " Measured in the table are the times that ONNX Runtime's profiler gives for float32 models; "
    "what is fused into a layer counts for it. Profiling costs time at every layer: their sum may "
    "exceed the latency of the whole network."
)
_LABELS = 48  # layers that are named below the picture


def shown(view: RunView) -> list[tuple[str, TrialRecord]]:
    """The front's models by rising cost, the recommended one first, each with its name."""
    if view.network is None or view.front is None or not view.members:
        return []
    found, lowest = view.recommendation, lowest_cost_word(view)
    picks = {
        "recommended": found.record if found else None,
        "knee": view.front.knee,
        "best": view.front.best(),
        lowest[:1].lower() + lowest[1:]: view.members[0],
    }
    words: dict[int, list[str]] = {}
    for word, record in picks.items():
        if record is not None:
            words.setdefault(record.number, []).append(word)
    known = [record for record in view.members if str(record.number) in view.network.models]
    known.sort(key=lambda record: "recommended" not in words.get(record.number, ()))
    return [(_named(record, words.get(record.number, [])), record) for record in known]


def _named(record: TrialRecord, words: list[str]) -> str:
    precision = record.candidate.architecture.precision
    parts = [f"trial {record.number}", ", ".join(words)]
    return " · ".join([*filter(None, parts), *([precision] if precision != FLOAT32 else [])])


def names(layers: Sequence[LayerInfo]) -> list[str]:
    """What the layers are called: those of one module with a number and what each computes.

    >>> names([LayerInfo("a", "addmm"), LayerInfo("a", "scaled_attention"), LayerInfo("b", "mm")])
    ['a #1 (addmm)', 'a #2 (attention)', 'b']
    """
    times, seen, found = Counter(layer.name for layer in layers), Counter[str](), []
    for layer in layers:
        seen[layer.name] += 1
        kind = "attention" if "attention" in layer.kind else layer.kind
        several = f" #{seen[layer.name]} ({kind})" if times[layer.name] > 1 else ""
        found.append(layer.name + several)
    return found


def figure(view: RunView) -> Figure | None:
    """The picture of the first of `shown`; `models` has, by number, what each of them changes.

    `put` maps a place in the picture to its value, `rows` are the table's cells after the name.
    """
    network, models = view.network, shown(view)
    if network is None or not models:
        return None
    remarks = LayerRemarks(view, network)
    changes = {
        str(record.number): {
            "put": _values(network, str(record.number)),
            "rows": _rows(network, str(record.number), remarks.of(record)),
        }
        for _, record in models
    }
    return {"data": _traces(network), "layout": _layout(network), "models": changes}


def network(view: RunView, drawn: Mapping[str, Any]) -> str:
    """The picture and the table of the layers, with a choice of the model."""
    pictures = drawn.get("network")
    if not pictures or view.network is None:
        return ""
    models = shown(view)
    first = str(models[0][1].number)
    options = "".join(
        f'<option value="{record.number}">{escape(label)}</option>' for label, record in models
    )
    return section(
        "Network",
        "<p>Output channels of every layer, in the order of execution: gray is the dense model, "
        "blue what is left; a cross is a layer that is gone. "
        f"{_below(view, view.network)}{_TIMED if _is_timed(view.network) else ''}</p>"
        '<p><label class="choice">Model <select data-for="network-plot" autocomplete="off">'
        f"{options}</select></label></p>"
        f'<div class="plot" id="network-plot" data-figure="network" data-model="{first}"></div>'
        + _table(view.network, pictures["models"][first]["rows"]),
    )


def _below(view: RunView, network: Network) -> str:
    """What the lower bars are."""
    if not network.latency:
        return "Below, the multiply-accumulates (MACs) of each layer."
    name = split_field(network.latency)[1]
    profile = view.devices.get(name)
    where = ": ".join(part for part in (name, str(profile.device) if profile else "") if part)
    on = f" on {escape(where)}" if where else ""
    return (
        f"Below, each layer's part of the latency predicted{on}; operators between the layers are "
        "left out."
    )


def _parts(network: Network, key: str) -> Sequence[float]:
    """The cost of each layer of a model: MACs, or where latency is predicted, its part of it.

    Empty for a model whose latency is not predicted though that of others is.
    """
    costs = network.models[key]
    return costs.ms if network.latency else costs.macs


def _traces(network: Network) -> list[Figure]:
    """Dense and left channels, crosses, dense and left costs: the model's own are put in later."""
    places = list(range(len(network.layers)))
    names = [plain_escape(layer.name) for layer in network.layers]
    plain = {"textposition": "none"}
    hover = plain | {"hovertemplate": "%{text}<extra></extra>"}
    unit = "%{y:.3g} ms" if network.latency else "%{y:.3s} MACs"
    below = plain | {
        "yaxis": "y2",
        "text": names,
        "hovertemplate": f"%{{text}}<extra>{unit}</extra>",
    }
    crosses = {"type": "scatter", "mode": "markers", "hoverinfo": "skip", "cliponaxis": False}
    return [
        _bars(places, network.models["dense"].widths, "--faint", 0.9) | hover,
        _bars(places, (), "--accent", 0.56) | hover,
        crosses | {"marker": {"symbol": "x", "size": 9, "color": "--bad"}},
        _bars(places, _parts(network, "dense"), "--faint", 0.9) | below,
        _bars(places, (), "--baseline", 0.56) | below,
    ]


def _values(network: Network, key: str) -> dict[str, list[Any]]:
    """What one model puts into the picture."""
    widths = network.models[key].widths
    dense = network.models["dense"].widths
    layers = zip(names(network.layers), network.layers, dense, widths, strict=True)
    said = [plain_escape(_said(*layer)) for layer in layers]
    gone = [place for place, width in enumerate(widths) if not width]
    return {
        **{"data.0.text": said, "data.1.text": said, "data.1.y": list(widths)},
        **{"data.2.x": gone, "data.2.y": [0] * len(gone)},
        "data.4.y": list(_parts(network, key)),
    }


def _layout(network: Network) -> Figure:
    count = len(network.layers)
    every = max(1, -(-count // _LABELS))
    full = names(network.layers)
    short = [name if len(name) < 22 else "…" + name[-20:] for name in full]
    ticks = {
        "tickvals": list(range(0, count, every)),
        "ticktext": [plain_escape(name) for name in short[::every]],
        "tickangle": -60,
        "tickfont": {"size": 10},
        "range": [-0.7, count - 0.3],
        "showgrid": False,
    }
    cost = {"title": "ms"} if network.latency else {"title": "MACs", "tickformat": "~s"}
    return layout(
        height=430,
        barmode="overlay",
        bargap=0.1,
        xaxis=axis("", **ticks, anchor="y2"),
        yaxis=axis("channels", domain=[0.44, 1], rangemode="tozero"),
        yaxis2=axis(**cost, domain=[0, 0.34], rangemode="tozero"),
    )


def _bars(places: list[int], heights: Sequence[float], color: str, width: float) -> Figure:
    return {
        "type": "bar",
        "x": places,
        "y": list(heights),
        "width": width,
        "marker": {"color": color},
    }


def _said(name: str, layer: LayerInfo, before: int, after: int) -> str:
    change = f"{before} → {after} channels" if after else f"{before} channels → gone"
    inside = f" · block {layer.block}" if layer.block else ""
    return f"{name}: {change}{inside}"


def _table(network: Network, rows: Sequence[Sequence[str]]) -> str:
    """Every layer of one model beside the dense one, with why it is as it is."""
    costs = ("estimated ms", "of the time") if network.latency else ("of all MACs",)
    columns = ("channels", "MACs", *costs, *(("measured ms",) if _is_timed(network) else ()))
    head = heads(("layer", *columns)) + '<th class="l">remarks</th>'
    body = "".join(
        f"<tr>{cell(escape(name), '', 'l full')}"
        + "".join(cell(escape(v), column) for v, column in zip(values, columns, strict=True))
        + f"{cell(escape(remark), '', 'l full wrap')}</tr>"
        for name, (*values, remark) in zip(names(network.layers), rows, strict=True)
    )
    return folded(
        "Layer by layer: before and after, and why",
        f'<div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead>'
        f'<tbody data-rows="network-plot">{body}</tbody></table></div>',
    )


def _rows(network: Network, key: str, remarks: Sequence[str]) -> list[list[str]]:
    """The cells of each layer after its name."""
    dense, small, timed = network.models["dense"], network.models[key], _is_timed(network)
    parts = _parts(network, key)
    return [
        [
            _change(str(dense.widths[place]), str(small.widths[place])),
            _change(*(text.cost("macs", costs.macs[place]) for costs in (dense, small))),
            *([_change(_ms(dense, place), _ms(small, place))] if network.latency else []),
            text.share(parts[place], sum(parts)) if parts else text.NONE,
            *([_change(_measured(dense, place), _measured(small, place))] if timed else []),
            said,
        ]
        for place, said in enumerate(remarks)
    ]


def _ms(costs: LayerCosts, place: int) -> str:
    return text.three_digits(costs.ms[place]) if costs.ms else text.NONE


def _is_timed(network: Network) -> bool:
    return any(costs.measured for costs in network.models.values())


def _measured(costs: LayerCosts, place: int) -> str:
    """The measured time; a layer that is gone has none, nor has one of an int8 model."""
    value = costs.measured[place] if costs.measured else None
    return text.three_digits(value) if value is not None and costs.widths[place] else text.NONE


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"
