"""The page's parts as HTML text; every string that a user wrote goes through `escape`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from autoprune.budget import Cost
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import Retrained, RunView
from autoprune.report.figures import colours, default_axis
from autoprune.report.terminal import device_line

_COUNTS = ("params", "macs", "weight_bytes")
_HOLLOW = '<circle cx="9" cy="7" r="3.5" fill="none" stroke="var(--faint-2)" stroke-width="1.5"/>'
_MARKS = {  # words and drawing; by hand, so that the legend prints and wraps like text
    "front": ("front, cheap to dear", '<circle cx="9" cy="7" r="5" fill="var(--accent)"/>'),
    "dense": ("dense model", '<path d="M9 1l6 6-6 6-6-6z" fill="var(--ink)"/>'),
    "uniform": (
        "uniform ratios",
        '<path d="M1 7h16" stroke="var(--baseline)" stroke-dasharray="2 2"/>'
        '<path d="M5 3h8v8H5z" fill="var(--baseline)"/>',
    ),
    "finished": ("finished", '<circle cx="9" cy="7" r="4" fill="var(--faint-2)"/>'),
    "stopped": ("stopped early", _HOLLOW),
    "failed": ("failed", '<path d="M6 4l6 6m0-6l-6 6" stroke="var(--bad)" stroke-width="2.5"/>'),
    "infeasible": ("over budget, not trained", _HOLLOW),
    "outside": ("outside the shown range", '<path d="M4 4h10l-5 7z" fill="var(--faint-2)"/>'),
    "budget": (
        "budget",
        '<path d="M9 0v14" stroke="var(--bad)" stroke-width="1.5" stroke-dasharray="3 2"/>',
    ),
}


def escape(value: object) -> str:
    """Text for HTML content and quoted attributes."""
    return html.escape(str(value), quote=True)


def head(view: RunView) -> str:
    """Title, what came out in one sentence, and the four models to know."""
    limits = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    kind = f"autoprune report · run <b>{escape(view.name)}</b>"
    parts = [f'<header><div class="kind">{kind}</div><h1>{escape(view.task)}</h1>']
    parts.append(f'<p class="lead">{_outcome(view, limits)}</p></header>')
    if not view.finished:
        so_far = (
            f"This run has not ended: what follows holds for the {len(view.records)} trials so far."
        )
        parts.append(f'<p class="warn">{so_far}</p>')
    return "".join(parts) + _tiles(view)


def front(view: RunView, drawn: Mapping[str, Any]) -> str:
    """The plot of the front with its choice of cost axis."""
    axes = drawn.get("front")
    if not axes:
        return _section("The front", '<p class="note">No trial has finished yet.</p>')
    first = default_axis(view, list(axes))
    buttons = "".join(
        f'<button type="button" data-key="{escape(key)}" '
        f'aria-pressed="{"true" if key == first else "false"}">{escape(figure["label"])}</button>'
        for key, figure in axes.items()
    )
    lead = (
        "Each coloured point is a saved, really smaller model that no other finished model beats "
        "in every respect. Colours run from cheap to dear and stay the same down this page."
    )
    return _section(
        "The front",
        f"<p>{lead}</p>"
        f'<div class="axes" role="group" aria-label="cost axis" data-for="front-plot">{buttons}</div>'
        f'<div class="plot" id="front-plot" data-figure="front" data-axis="{escape(first)}"></div>'
        + _legend(axes, first)
        + f'<p class="note">{escape(device_line(view))}. Accuracies are on the validation split.</p>',
    )


def models(view: RunView) -> str:
    """Dense, members and uniform baselines in one table, predicted and measured apart."""
    name = view.metric.name if view.metric else "metric"
    shades = colours(len(view.members))
    knee = view.front.knee if view.front else None
    rows = [_dense_row(view, name)]
    for record, shade in zip(view.members, shades, strict=True):
        mark = f'<span class="dot" style="background:{shade}"></span>'
        is_knee = knee is not None and record.number == knee.number
        tag = '<span class="tag">knee</span>' if is_knee else ""
        who = f"{mark}trial {record.number}{tag}"
        rows.append(_row(view, record, name, who, "knee" if is_knee else ""))
    if view.uniform:
        rows.append(
            '<tr class="head"><td colspan="12" class="full">Baseline: one ratio for every group</td></tr>'
        )
        mark = '<span class="dot square"></span>'
        rows += [
            _row(view, record, name, f"{mark}uniform, trial {record.number}", "")
            for record in view.uniform
        ]
    return _section(
        "Models beside dense",
        f'<div class="scroll"><table class="cards"><thead>{_model_head(name)}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">{escape(device_line(view))}. Latencies are medians in milliseconds for one '
        "forward pass; the speed-up divides the measured medians. Predicted latency is what the "
        "search believed; measured is the finished model, alone on the machine. To uniform: the "
        "difference to uniform ratios at the same cost, between the two nearest baselines.</p>",
    )


def retrained(view: RunView) -> str:
    """Members trained in full: test metrics over seeds, never used for choosing."""
    if not view.retrained:
        return ""
    columns = (
        "model",
        "epochs",
        "seeds",
        "test, mean ± std",
        "dense, test",
        "difference",
        "measured",
    )
    rows = "".join(_retrained_row(view, result) for result in view.retrained)
    return _section(
        "Retrained in full",
        f'<div class="scroll"><table class="cards"><thead><tr>{_heads(columns)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">The test split was read once per finished model and nothing was chosen on '
        "it. Spread is the standard deviation over the seeds.</p>",
    )


def removed(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Per-layer ratios and schedules of the members."""
    if "ratios" not in drawn:
        return ""
    parts = [
        "<p>Removed share of each group of coupled channels, in per cent; models from cheap to dear."
        "</p>",
        _plot("ratios"),
    ]
    if view.frozen:
        parts.append(_frozen(view))
    return _section("What left which layer", "".join(parts))


def training(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Schedules, recovery settings and training histories of the members."""
    if "schedules" not in drawn:
        return ""
    metric = escape(view.metric.name if view.metric else "")
    plots = [("schedules", "When it left")]
    plots += [("history_metric", f"Validation {metric}")] if "history_metric" in drawn else []
    plots += [("history_loss", "Training loss")] if "history_loss" in drawn else []
    cells = "".join(f'<div class="keep"><h3>{title}</h3>{_plot(key)}</div>' for key, title in plots)
    note = '<p class="note">Grey lines are the other trials; dotted is the dense model.</p>'
    return _section(
        "Schedule and recovery", f'<div class="row">{cells}</div>{note}{_settings(view)}'
    )


def prediction(view: RunView, drawn: Mapping[str, Any]) -> str:
    """How well the latency that the search believed agreed with the measurement."""
    if "prediction" not in drawn:
        return ""
    errors = [
        abs(r.predicted.latency_ms / r.measured.latency_ms - 1.0)
        for r in view.records
        if r.predicted and r.measured and r.predicted.latency_ms and r.measured.latency_ms
    ]
    mean, worst = 100 * sum(errors) / len(errors), 100 * max(errors)
    return _section(
        "Did the prediction hold?",
        f"<p>Over {len(errors)} models that were measured, the predicted latency was off by "
        f"<b>{mean:.1f} %</b> on average and by {worst:.1f} % at worst. The line is equality.</p>"
        f'<div style="max-width:520px">{_plot("prediction")}</div>',
    )


def importances(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Which search variables mattered for each objective."""
    titles = list(view.importances)
    cells = "".join(
        f'<div class="keep"><h3>{escape(title)}</h3>{_plot(f"importance_{index}")}</div>'
        for index, title in enumerate(titles)
        if f"importance_{index}" in drawn
    )
    if not cells:
        return ""
    note = '<p class="note">PED-ANOVA importances of the search variables, the largest twelve.</p>'
    return _section("What mattered", f'<div class="pair">{cells}</div>{note}')


def search(view: RunView) -> str:
    """What the search cost, how trials ended, and why those that failed did."""
    states = view.states
    bar = "".join(
        f'<span class="s-{state}" style="flex:{count}"></span>'
        for state, count in states.items()
        if count
    )
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    facts = {
        "trials": f"{len(view.records)}: {counts}" if counts else "none yet",
        "epochs of training": f"{view.epochs:.4g}",
        "wall time": text.seconds(view.wall_s),
        **{
            f"{name.removesuffix('_s')}, all trials": text.seconds(value)
            for name, value in view.times.items()
        },
    }
    if view.front and view.front.reference is not None and view.members:
        at = ", ".join(f"{value:.4g}" for value in view.front.reference)
        facts["hypervolume"] = f"{view.front.hypervolume:.4g} (reference {at})"
    body = f'<div class="bar" role="img" aria-label="{escape(counts)}">{bar}</div>{_facts(facts)}'
    return _section("What the search cost", body + _without_model(view))


def details(view: RunView) -> str:
    """Configuration, environment and device, folded."""
    config = yaml.safe_dump(dict(view.config), sort_keys=False, allow_unicode=True)
    device = {k: v for k, v in view.device.items() if not isinstance(v, (list, dict))}
    parts = [_folded("Configuration", f"<pre><code>{escape(config)}</code></pre>")]
    parts.append(_folded("Environment and versions", _facts(_flat(view.environment))))
    if device:
        parts.append(_folded("Device profile", _facts(device)))
    return _section("How to get this again", "".join(parts))


def foot(view: RunView) -> str:
    """What made the page."""
    version = view.environment.get("autoprune", "")
    return (
        f"<footer>Written by autoprune {escape(version)}. This file holds all it needs; it loads "
        "nothing from the network.</footer><noscript><p>Plots need JavaScript; the tables do not."
        "</p></noscript>"
    )


# --- the head ------------------------------------------------------------------------------------


def _outcome(view: RunView, limits: str) -> str:
    knee = view.front.knee if view.front else None
    within = f" within {escape(limits)}" if limits else ""
    if knee is None:
        return f"No finished model{within} yet."
    count = len(view.members)
    name = view.metric.name if view.metric else ""
    value = view.metric_of(knee)
    against = [
        f"{text.change(name, difference)} to {what}"
        for what, difference in (
            ("dense", view.change(value)),
            ("uniform pruning at equal cost", view.gain(knee)),
        )
        if difference is not None
    ]
    beside = f" ({', '.join(against)})" if against else ""
    return (
        f"{count} smaller model{'s' if count > 1 else ''}{within}. "
        f"The knee, trial {knee.number}, has {escape(f'{name} {text.metric(name, value)}{beside}')}: "
        f"<b>{escape(view.verdict(knee).text)}</b>."
    )


def _tiles(view: RunView) -> str:
    if not view.front or not view.members:
        return ""
    name = view.metric.name if view.metric else ""
    dense = view.dense
    tiles = [
        _tile(
            "dense",
            "Dense",
            text.metric(name, dense.metrics.get(name)),
            "",
            _cost_words(dense.measured, dense.predicted),
        )
    ]
    picks = (
        ("knee", view.front.knee),
        (_cheapest_word(view), view.members[0]),
        ("best", view.front.best()),
    )
    for kind, record in picks:
        if record is not None:
            value = view.metric_of(record)
            verdict = view.verdict(record)
            tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
            more = (
                f"{_cost_words(record.measured, record.predicted)}"
                f'<div class="{tone}">{escape(verdict.text)}</div>'
            )
            title = f"{kind.capitalize()} · trial {record.number}"
            change = text.change(name, view.change(value))
            tiles.append(_tile(kind, title, text.metric(name, value), change, more))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _cheapest_word(view: RunView) -> str:
    costs = [o.name for o in view.front.objectives] if view.front else []
    return "fastest" if any(name.startswith("latency") for name in costs) else "smallest"


def _tile(kind: str, who: str, value: str, change: str, more: str) -> str:
    small = f" <small>{escape(change)}</small>" if change and change != text.NONE else ""
    return (
        f'<div class="tile {kind}"><div class="who">{escape(who)}</div>'
        f'<div class="value">{escape(value)}{small}</div><div class="more">{more}</div></div>'
    )


def _cost_words(measured: Cost | None, predicted: Cost | None) -> str:
    parts = []
    if measured and measured.latency_ms is not None:
        parts.append(f"{text.cost('latency_ms', measured.latency_ms)} measured")
    elif predicted and predicted.latency_ms is not None:
        parts.append(f"{text.cost('latency_ms', predicted.latency_ms)} predicted")
    known = predicted or measured
    if known and known.macs is not None:
        parts.append(f"{text.cost('macs', known.macs)} MACs")
    if known and known.weight_bytes is not None:
        parts.append(text.cost("weight_bytes", known.weight_bytes))
    return " · ".join(f'<span class="one">{escape(part)}</span>' for part in parts)


def _legend(axes: Mapping[str, Any], first: str | None) -> str:
    """Every mark that some axis shows; the page hides those that the chosen axis does not."""
    used = {key for figure in axes.values() for key in figure["legend"]}
    now = axes[first]["legend"] if first else ()
    items = "".join(
        f'<li data-mark="{key}"{"" if key in now else " hidden"}>'
        f'<svg viewBox="0 0 18 14">{mark}</svg>{words}</li>'
        for key, (words, mark) in _MARKS.items()
        if key in used
    )
    return f'<ul class="legend">{items}</ul>'


# --- tables --------------------------------------------------------------------------------------


def _model_head(name: str) -> str:
    groups = (
        '<tr><th class="l span" colspan="4"></th><th class="span" colspan="3"></th>'
        '<th class="span predicted">predicted</th>'
        '<th class="span measured" colspan="3">measured</th><th class="span"></th></tr>'
    )
    plain = (f"val {name}", "to dense", "to uniform", "params", "MACs", "weights")
    return (
        f'{groups}<tr><th class="l">model</th>{_heads(plain, left=False)}'
        '<th class="predicted">ms</th><th class="measured">ms</th><th>p95 ms</th>'
        '<th>speed-up</th><th class="l">verdict</th></tr>'
    )


def _heads(names: Iterable[str], *, left: bool = True) -> str:
    cells = [f"<th>{escape(name)}</th>" for name in names]
    if left:
        cells[0] = cells[0].replace("<th>", '<th class="l">')
    return "".join(cells)


def _dense_row(view: RunView, name: str) -> str:
    counts, measured = view.dense.predicted or view.dense.measured, view.dense.measured
    speed = "1.00×" if measured and measured.latency_ms else text.NONE
    value = text.metric(name, view.dense.metrics.get(name))
    who = '<span class="dot diamond"></span>dense'
    cells = _cells(name, who, (value, "", ""), counts, view.dense.predicted, measured, None)
    return (
        f'<tr class="dense">{cells}{_cell(speed, "speed-up")}{_cell("", "", "l full empty")}</tr>'
    )


def _row(view: RunView, record: TrialRecord, name: str, who: str, kind: str) -> str:
    value = view.metric_of(record)
    verdict = view.verdict(record)
    tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
    ratio = view.speedup(record.measured)
    speed = f"{ratio:.2f}×" if ratio else text.NONE
    gain = view.gain(record) if record not in view.uniform else None
    cells = _cells(
        name,
        who,
        (
            text.metric(name, value),
            text.change(name, view.change(value)),
            text.change(name, gain) if gain is not None else "",
        ),
        record.predicted,
        record.predicted,
        record.measured,
        view.dense.predicted,
    )
    return (
        f'<tr class="{kind}" id="trial-{record.number}">{cells}'
        f"{_cell(speed, 'speed-up')}{_cell(escape(verdict.text), '', f'l full verdict {tone}')}</tr>"
    )


def _cells(
    name: str,
    who: str,
    values: tuple[str, str, str],
    counts: Cost | None,
    predicted: Cost | None,
    measured: Cost | None,
    dense: Cost | None,
) -> str:
    names = (f"val {name}", "to dense", "to uniform")
    parts = [_cell(who, "", "l full")]
    parts += [
        _cell(escape(value), label, "" if value else "empty")
        for value, label in zip(values, names, strict=True)
    ]
    labels = ("params", "MACs", "weights")
    for field, label in zip(_COUNTS, labels, strict=True):
        amount = getattr(counts, field, None)
        of = text.share(amount, getattr(dense, field, None)) if dense else ""
        parts.append(f'<td data-label="{label}" title="{of}">{text.cost(field, amount)}</td>')
    parts.append(_cell(_ms(predicted, "latency_ms"), "predicted ms", "predicted"))
    parts.append(_cell(_ms(measured, "latency_ms"), "measured ms", "measured"))
    parts.append(_cell(_ms(measured, "latency_p95_ms"), "measured p95"))
    return "".join(parts)


def _cell(content: str, label: str, kind: str = "") -> str:
    data = f' data-label="{escape(label)}"' if label else ""
    return f'<td class="{kind}"{data}>{content}</td>'


def _ms(cost: Cost | None, field: str) -> str:
    value = getattr(cost, field, None)
    return text.NONE if value is None else text.three_digits(value)


def _retrained_row(view: RunView, result: Retrained) -> str:
    test = "<br>".join(escape(f"{n} {text.spread(n, *v)}") for n, v in result.test.items())
    dense = "<br>".join(escape(f"{n} {text.metric(n, v)}") for n, v in result.dense.items())
    changes = [
        text.change(n, mean - result.dense[n])
        for n, (mean, _) in result.test.items()
        if n in result.dense
    ]
    ratio = view.speedup(result.measured)
    speed = (
        f"{text.cost('latency_ms', result.measured.latency_ms)}" if result.measured else text.NONE
    )
    return (
        "<tr>"
        + _cell(f"trial {result.number}", "", "l full")
        + _cell(f"{result.epochs:g}", "epochs")
        + _cell(escape(", ".join(str(seed) for seed in result.seeds)), "seeds")
        + _cell(test or text.NONE, "test, mean ± std")
        + _cell(dense or text.NONE, "dense, test")
        + _cell("<br>".join(changes) or text.NONE, "difference")
        + _cell(speed + (f" ({ratio:.2f}×)" if ratio else ""), "measured")
        + "</tr>"
    )


def _settings(view: RunView) -> str:
    columns = (
        "model",
        "schedule",
        "progress",
        "importance",
        "repair",
        "lr",
        "distillation",
        "regulariser",
        "epochs",
        "origin",
    )
    rows = []
    for record, shade in zip(view.members, colours(len(view.members)), strict=True):
        made = record.candidate
        schedule, recovery = made.schedule, made.recovery
        steps = f" in {schedule.steps}" if schedule.steps > 1 else ""
        progress = f"{schedule.begin:g} – {schedule.end:g}" if steps else f"at {schedule.begin:g}"
        values = (
            schedule.kind + steps,
            progress,
            made.importance,
            "yes" if made.repair else "no",
            f"{recovery.lr:.2g}",
            f"{recovery.distillation:.2g}",
            f"{recovery.regulariser:.2g}",
            f"{record.epochs:g}",
            record.origin,
        )
        mark = f'<span class="dot" style="background:{shade}"></span>'
        first = _cell(f"{mark}trial {record.number}", "", "l full")
        rest = (_cell(escape(v), c) for v, c in zip(values, columns[1:], strict=True))
        rows.append(f"<tr>{first}{''.join(rest)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{_heads(columns)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _without_model(view: RunView) -> str:
    """Why failed trials failed, in the open; the infeasible ones folded."""
    parts = []
    for state, title in (("failed", "Failed trials"), ("infeasible", "Over budget, never trained")):
        records = [record for record in view.records if record.state == state]
        rows = "".join(
            f'<tr><td class="l">trial {r.number}</td><td class="l wrap">'
            f"{escape(text.last_line(r.error))}</td></tr>"
            for r in records
        )
        if records:
            table = f"<table><tbody>{rows}</tbody></table>"
            parts.append(_folded(f"{title} ({len(records)})", table, is_open=state == "failed"))
    return f'<div style="margin-top:20px">{"".join(parts)}</div>' if parts else ""


def _frozen(view: RunView) -> str:
    rows = "".join(
        f'<tr><td class="l">{escape(item.get("name", ""))}</td><td>{escape(item.get("size", ""))}</td>'
        f'<td class="l wrap">{escape(item.get("reason", ""))}</td></tr>'
        for item in view.frozen
    )
    head = f'<thead><tr>{_heads(("layer", "units"))}<th class="l">reason</th></tr></thead>'
    table = f"<table>{head}<tbody>{rows}</tbody></table>"
    return _folded(f"Left whole, and why ({len(view.frozen)})", table)


# --- small parts ---------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _plot(key: str) -> str:
    return f'<div class="plot" data-figure="{key}"></div>'


def _folded(title: str, body: str, *, is_open: bool = False) -> str:
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>{body}</details>"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat
