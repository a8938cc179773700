"""The page's parts between the tables of models and the appendix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.cost_fields import split_field
from autoprune.report import text
from autoprune.report.contents import NO_FASTER
from autoprune.report.data import RunView
from autoprune.report.front_axes import cost_of
from autoprune.report.markup import escape, folded, heads, plot, section
from autoprune.report.settings import settings


def removed(view: RunView, drawn: Mapping[str, Any]) -> str:
    """Per-layer ratios and schedules of the members."""
    if "ratios" not in drawn:
        return ""
    parts = [
        "<p>Pruned fraction of each group of units (channels, heads) that are pruned together, in "
        "percent. A column is a model, by rising cost.</p>",
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
        f"{escape(text.label(field))} is <b>{mean:.1f} %</b>, the largest {worst:.1f} %."
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


def _fit(view: RunView, field: str) -> str:
    profile = view.devices.get(split_field(field)[1])
    if profile is None or profile.error is None:
        return ""
    return (
        f" The predictor's mean error on {len(profile.held_out)} held-out models (gray) "
        f"was {100 * profile.error:.1f} %."
    )


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
