"""The page's plot of the front, with the choice of its axis and its legend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.report.data import RunView
from autoprune.report.front_axes import MOST, default_axis
from autoprune.report.markup import escape, section
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
    "random": (
        "random widths or weights",
        '<path d="M9 2l5 5-5 5-5-5z" fill="none" stroke="var(--baseline)" stroke-width="1.5"/>',
    ),
    "smaller": (
        "smaller dense model",
        '<path d="M9 0l4 7-4 7-4-7z" fill="none" stroke="var(--baseline)" stroke-width="1.5"/>',
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
        + f'<p class="note">{escape(device_line(view))}. Metrics are of the validation split.'
        f"{_thinned(view)}</p>",
    )


def _thinned(view: RunView) -> str:
    most = max(view.states.values(), default=0)
    return f" Of each kind of trial the newest {MOST} are drawn." if most > MOST else ""


def front_alone(axes: Mapping[str, Any], view: RunView) -> str:
    """The plot of the front against the axis to show first, and its legend."""
    first = default_axis(view, list(axes))
    place = f'data-figure="front" data-axis="{escape(first)}"'
    return f'<div class="plot" id="front-plot" {place}></div>{_legend(axes, first)}'


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
