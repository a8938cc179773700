"""The end of the page: what the search cost, why trials failed, configuration, versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import escape, facts, flat, folded, plot, section


def search(view: RunView, drawn: Mapping[str, Any]) -> str:
    """What the search cost, how it went on, how trials ended, and why some failed."""
    states = view.states
    bar = "".join(
        f'<span class="s-{state}" style="flex:{count}"></span>'
        for state, count in states.items()
        if count
    )
    words = {"infeasible": "over budget as predicted"}
    counts = ", ".join(f"{n} {words.get(state, state)}" for state, n in states.items() if n)
    own = ", ".join(f"{count} {state}" for state, count in view.own_states.items())
    known = {
        "trials": f"{sum(view.own_states.values())}: {own}" if own else "none yet",
        **_extra(view),
        "training epochs": f"{view.epochs:.4g}",
        "wall time": text.seconds(view.wall_s),
        **({"ended by": view.ended_by} if view.ended_by else {}),
        **{
            f"{name.removesuffix('_s')}, all trials": text.seconds(value)
            for name, value in view.times.items()
        },
    }
    if view.front and view.front.reference is not None and view.members:
        at = ", ".join(f"{value:.4g}" for value in view.front.reference)
        known["hypervolume"] = f"{view.front.hypervolume:.4g} (reference {at})"
    body = f'<div class="bar" role="img" aria-label="{escape(counts)}">{bar}</div>{facts(known)}'
    if "hypervolume" in drawn:
        body += f'<div class="keep half"><h3>Hypervolume</h3>{plot("hypervolume")}</div>'
    return section("Search cost", body + _without_model(view))


def _extra(view: RunView) -> dict[str, str]:
    """What does not count towards the limits: baselines, trials of an earlier run, proposals."""
    found = dict(view.not_counted)
    if refused := view.states["infeasible"]:
        found["over budget as predicted"] = f"{refused} proposals, not trained"
    return found


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


def _without_model(view: RunView) -> str:
    """Why trials failed, unfolded; those over the budget, folded."""
    records = (*view.records, *view.smaller)
    ended = {state: [r for r in records if r.state == state] for state in view.states}
    parts = [
        _reasons("Failed trials", [(r, text.last_line(r.error)) for r in ended["failed"]], True),
        _reasons(
            "Within the budget as predicted, over it as measured",
            [(r, _over(view, r)) for r in ended["complete"] if view.over_budget(r)],
        ),
        _reasons(
            "Over budget as predicted, never trained",
            [(r, text.last_line(r.error)) for r in ended["infeasible"]],
        ),
    ]
    return f'<div style="margin-top:20px">{"".join(parts)}</div>' if any(parts) else ""


def _over(view: RunView, record: TrialRecord) -> str:
    """By how much a model is over the budget, and what it would have reached."""
    name = view.metric.name if view.metric else ""
    reached = f" · {name} {text.metric(name, view.metric_of(record))}" if name else ""
    return f"{view.over_budget(record)}{reached}"


def _reasons(title: str, found: list[tuple[TrialRecord, str]], is_open: bool = False) -> str:
    rows = "".join(
        f'<tr><td class="l">{record.title}</td><td class="l wrap">{escape(why)}</td></tr>'
        for record, why in found
    )
    table = f"<table><tbody>{rows}</tbody></table>"
    return folded(f"{title} ({len(found)})", table, is_open=is_open) if found else ""
