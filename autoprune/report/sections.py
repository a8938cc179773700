"""The page's parts as HTML text, apart from the tables of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.budget import Cost
from autoprune.cost_fields import is_latency, split_field
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import NO_FASTER, RunView
from autoprune.report.front_plot import cost_of, default_axis
from autoprune.report.markup import escape, facts, flat, folded, heads, plot, section
from autoprune.report.tables import settings
from autoprune.report.terminal import device_line

_HOLLOW = '<circle cx="9" cy="7" r="3.5" fill="none" stroke="var(--faint-2)" stroke-width="1.5"/>'
_MARKS = {  # words and drawing; as SVG, so that the legend prints and wraps like text
    "front": ("Pareto front, by rising cost", '<circle cx="9" cy="7" r="5" fill="var(--accent)"/>'),
    "dense": ("dense model", '<path d="M9 1l6 6-6 6-6-6z" fill="var(--ink)"/>'),
    "uniform": (
        "uniform pruning",
        '<path d="M1 7h16" stroke="var(--baseline)" stroke-dasharray="2 2"/>'
        '<path d="M5 3h8v8H5z" fill="var(--baseline)"/>',
    ),
    "finished": ("finished", '<circle cx="9" cy="7" r="4" fill="var(--faint-2)"/>'),
    "stopped": ("stopped early", _HOLLOW),
    "failed": ("failed", '<path d="M6 4l6 6m0-6l-6 6" stroke="var(--bad)" stroke-width="2.5"/>'),
    "infeasible": (
        "over budget, not trained",
        '<path d="M9 2v10" stroke="var(--faint-2)" stroke-width="2"/>',
    ),
    "outside": ("outside the shown range", '<path d="M4 4h10l-5 7z" fill="var(--faint-2)"/>'),
    "budget": (
        "budget",
        '<path d="M9 0v14" stroke="var(--bad)" stroke-width="1.5" stroke-dasharray="3 2"/>',
    ),
}


def head(view: RunView) -> str:
    """Title, the result in one sentence, and the models to start from."""
    limits = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    kind = f"autoprune report · run <b>{escape(view.name)}</b>"
    file, colon, name = view.task.rpartition(":")
    short = f"{file.rpartition('/')[2]}{colon}{name}"  # a file without its folders
    parts = [f'<header><div class="kind">{kind}</div><h1>{escape(short)}</h1>']
    parts.append(f'<p class="lead">{_outcome(view, limits)}</p></header>')
    if view.not_measured:
        parts.append(
            f'<p class="warn">The front could not be measured: {escape(view.not_measured)}. It is '
            "based on predicted latency; <code>autoprune resume</code> measures it.</p>"
        )
    elif not view.finished:
        so_far = f"{len(view.records)} trials so far"
        parts.append(f'<p class="warn">This run is in progress: {so_far}.</p>')
    return "".join(parts) + _tiles(view)


def front(view: RunView, drawn: Mapping[str, Any]) -> str:
    """The plot of the front with its choice of cost axis."""
    axes = drawn.get("front")
    if not axes:
        return section("Pareto front", '<p class="note">No trial has finished yet.</p>')
    first = default_axis(view, list(axes))
    buttons = "".join(
        f'<button type="button" data-key="{escape(key)}" '
        f'aria-pressed="{"true" if key == first else "false"}">{escape(figure["label"])}</button>'
        for key, figure in axes.items()
    )
    lead = (
        "Each colored point is a saved pruned model that no other finished model dominates. Colors "
        "follow the cost and are the same throughout this page."
    )
    return section(
        "Pareto front",
        f"<p>{lead}</p>"
        '<div class="axes" role="group" aria-label="cost axis" data-for="front-plot">'
        f"{buttons}</div>"
        + front_alone(axes, view)
        + f'<p class="note">{escape(device_line(view))}. Metrics are of the validation split.</p>',
    )


def front_alone(axes: Mapping[str, Any], view: RunView) -> str:
    """The plot of the front against the axis to show first, and its legend."""
    first = default_axis(view, list(axes))
    place = f'data-figure="front" data-axis="{escape(first)}"'
    return f'<div class="plot" id="front-plot" {place}></div>{_legend(axes, first)}'


def removed(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Per-layer ratios and schedules of the members."""
    if "ratios" not in drawn:
        return ""
    parts = [
        "<p>Pruned fraction of each group of coupled units, in percent; models by rising cost.</p>",
        plot("ratios"),
    ]
    if any(view.zeros(record) for record in view.members):
        parts.append(f'<p class="note">{NO_FASTER}</p>')
    if view.frozen:
        parts.append(_frozen(view))
    return section("Per-layer sparsity", "".join(parts))


def training(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Schedules, recovery settings and training histories of the members."""
    if "schedules" not in drawn:
        return ""
    metric = escape(view.metric.name if view.metric else "")
    plots = [("schedules", "Pruning schedule")]
    plots += [("history_metric", f"Validation {metric}")] if "history_metric" in drawn else []
    plots += [("history_loss", "Training loss")] if "history_loss" in drawn else []
    cells = "".join(f'<div class="keep"><h3>{title}</h3>{plot(key)}</div>' for key, title in plots)
    note = '<p class="note">Gray lines are the other trials; dotted is the dense model.</p>'
    return section("Schedule and recovery", f'<div class="row">{cells}</div>{note}{settings(view)}')


def prediction(view: RunView, drawn: Mapping[str, Any]) -> str:
    """How well predicted and measured latency agree."""
    parts = [
        f'<div class="keep">{_prediction(view, field)}'
        f'<div style="max-width:520px">{plot(f"prediction_{index}")}</div></div>'
        for index, field in enumerate(view.latencies)
        if f"prediction_{index}" in drawn
    ]
    if not parts:
        return ""
    body = f'<div class="pair">{"".join(parts)}</div>' if len(parts) > 1 else parts[0]
    return section("Predicted vs. measured latency", body)


def _prediction(view: RunView, field: str) -> str:
    pairs = [(cost_of(r, "predicted", field), cost_of(r, "measured", field)) for r in view.records]
    errors = [abs(p / m - 1.0) for p, m in pairs if p and m]
    mean, worst = 100 * sum(errors) / len(errors), 100 * max(errors)
    return (
        f"<p>Over {len(errors)} measured models, the mean absolute error of the predicted "
        f"{text.label(field)} is <b>{mean:.1f} %</b>, the largest {worst:.1f} %."
        f"{_fit(view, field)} The line is equality.</p>"
    )


def importances(view: RunView, drawn: Mapping[str, Any]) -> str:
    """The importance of each search variable for each objective."""
    titles = list(view.importances)
    cells = "".join(
        f'<div class="keep"><h3>{escape(title)}</h3>{plot(f"importance_{index}")}</div>'
        for index, title in enumerate(titles)
        if f"importance_{index}" in drawn
    )
    if not cells:
        return ""
    note = '<p class="note">PED-ANOVA importances of the search variables, the largest twelve.</p>'
    return section("Hyperparameter importance", f'<div class="pair">{cells}</div>{note}')


def search(view: RunView) -> str:
    """What the search cost, how trials ended, and why some failed."""
    states = view.states
    bar = "".join(
        f'<span class="s-{state}" style="flex:{count}"></span>'
        for state, count in states.items()
        if count
    )
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    known = {
        "trials": f"{len(view.records)}: {counts}" if counts else "none yet",
        "training epochs": f"{view.epochs:.4g}",
        "wall time": text.seconds(view.wall_s),
        **{
            f"{name.removesuffix('_s')}, all trials": text.seconds(value)
            for name, value in view.times.items()
        },
    }
    if view.front and view.front.reference is not None and view.members:
        at = ", ".join(f"{value:.4g}" for value in view.front.reference)
        known["hypervolume"] = f"{view.front.hypervolume:.4g} (reference {at})"
    body = f'<div class="bar" role="img" aria-label="{escape(counts)}">{bar}</div>{facts(known)}'
    return section("Search cost", body + _without_model(view))


def details(view: RunView) -> str:
    """Configuration, environment and device, folded."""
    config = escape(view.config.to_yaml())
    parts = [folded("Configuration", f"<pre><code>{config}</code></pre>")]
    parts.append(folded("Environment and versions", facts(flat(view.environment))))
    for name, profile in view.devices.items():
        title = f"Device profile: {name}" if name else "Device profile"
        if profile is not None:
            parts.append(folded(title, facts({**asdict(profile.device), **profile.facts})))
    return section("Reproduce", "".join(parts))


def foot(view: RunView) -> str:
    """What made the page."""
    version = view.environment.get("autoprune", "")
    return (
        f"<footer>Written by autoprune {escape(version)}. This file holds all it needs; it loads "
        "nothing from the network.</footer><noscript><p>Plots need JavaScript; the tables do not."
        "</p></noscript>"
    )


def _outcome(view: RunView, limits: str) -> str:
    knee = view.front.knee if view.front else None
    within = f" within {escape(limits)}" if limits else ""
    if knee is None:
        why = escape(view.without_model)
        return f"{why[0].upper()}{why[1:]}."
    count = len(view.members)
    name = view.metric.name if view.metric else ""
    value = view.metric_of(knee)
    against = [
        f"{text.change(name, difference)} to {what}"
        for what, difference in (
            ("dense", view.change(value)),
            (f"uniform pruning at equal {view.gain_source} cost", view.gain(knee)),
        )
        if difference is not None
    ]
    beside = f" ({', '.join(against)})" if against else ""
    return (
        f"{count} smaller model{'s' if count > 1 else ''}{within}. "
        f"The knee, trial {knee.number}, has {escape(f'{name} {text.metric(name, value)}')}"
        f"{escape(beside)}: "
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
            _cost_words(view, dense.measured, dense.predicted),
        )
    ]
    picks = [
        ("knee", "Knee", view.front.knee),
        ("fastest", _lowest_cost_word(view), view.members[0]),
        ("best", "Best", view.front.best()),
    ]
    picks += [("level", text.limit(limit, value), best) for limit, value, best in view.levels]
    tiles += [_pick(view, kind, word, record) for kind, word, record in picks if record]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _pick(view: RunView, kind: str, word: str, record: TrialRecord) -> str:
    """A model: its metric beside the dense one, its costs, and the verdict."""
    name = view.metric.name if view.metric else ""
    value = view.metric_of(record)
    verdict = view.verdict(record)
    tone = {True: "good", False: "bad", None: "dim"}[verdict.good]
    more = (
        f"{_cost_words(view, record.measured, record.predicted)}"
        f'<div class="{tone}">{escape(verdict.text)}</div>'
    )
    title = f"{word} · trial {record.number}"
    return _tile(kind, title, text.metric(name, value), text.change(name, view.change(value)), more)


def _lowest_cost_word(view: RunView) -> str:
    if view.cost is None or not is_latency(view.cost.name):
        return "Smallest"
    device = split_field(view.cost.name)[1]
    return f"Fastest on {device}" if device else "Fastest"


def _tile(kind: str, who: str, value: str, change: str, more: str) -> str:
    small = f" <small>{escape(change)}</small>" if change and change != text.NONE else ""
    return (
        f'<div class="tile {kind}"><div class="who">{escape(who)}</div>'
        f'<div class="value">{escape(value)}{small}</div><div class="more">{more}</div></div>'
    )


def _cost_words(view: RunView, measured: Cost | None, predicted: Cost | None) -> str:
    parts = []
    for field in view.latencies:
        device = split_field(field)[1]
        on = f" on {device}" if device else ""
        pairs = (("measured", measured), ("predicted", predicted))
        found = ((source, cost.value(field)) for source, cost in pairs if cost)
        known_by = [(source, value) for source, value in found if value is not None][:1]
        parts += [f"{text.cost(field, value)} {source}{on}" for source, value in known_by]
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


def _fit(view: RunView, field: str) -> str:
    profile = view.devices.get(split_field(field)[1])
    if profile is None or profile.error is None:
        return ""
    return (
        f" The predictor's mean error on {len(profile.held_out)} held-out models (gray) "
        f"was {100 * profile.error:.1f} %."
    )


def _without_model(view: RunView) -> str:
    """Why trials failed, unfolded; those over the budget, folded."""
    ended = {state: [r for r in view.records if r.state == state] for state in view.states}
    parts = [
        _reasons("Failed trials", [(r, text.last_line(r.error)) for r in ended["failed"]], True),
        _reasons(
            "Within the budget as predicted, over it as measured",
            [(r, over) for r in ended["complete"] if (over := view.over_budget(r))],
        ),
        _reasons(
            "Over budget as predicted, never trained",
            [(r, text.last_line(r.error)) for r in ended["infeasible"]],
        ),
    ]
    return f'<div style="margin-top:20px">{"".join(parts)}</div>' if any(parts) else ""


def _reasons(title: str, found: list[tuple[TrialRecord, str]], is_open: bool = False) -> str:
    rows = "".join(
        f'<tr><td class="l">trial {record.number}</td><td class="l wrap">{escape(why)}</td></tr>'
        for record, why in found
    )
    table = f"<table><tbody>{rows}</tbody></table>"
    return folded(f"{title} ({len(found)})", table, is_open=is_open) if found else ""


def _frozen(view: RunView) -> str:
    rows = "".join(
        f'<tr><td class="l">{escape(item.name)}</td>'
        f"<td>{escape(item.size)}</td>"
        f'<td class="l wrap">{escape(item.reason)}</td></tr>'
        for item in view.frozen
    )
    head = f'<thead><tr>{heads(("layer", "units"))}<th class="l">reason</th></tr></thead>'
    table = f"<table>{head}<tbody>{rows}</tbody></table>"
    return folded(f"Not prunable, and why ({len(view.frozen)})", table)
