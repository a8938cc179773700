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
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    known = {
        "trials": f"{len(view.records)}: {counts}" if counts else "none yet",
        "training epochs": f"{view.epochs:.4g}",
        **_extra(view),
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
    """What does not count towards the limits: baselines, and trials of an earlier run."""
    baselines = [r for r in view.records if not r.is_counted and not r.is_reused]
    reused = [r for r in view.records if r.is_reused]
    found = {}
    if baselines:
        epochs = sum(record.epochs for record in baselines)
        found["of them baselines"] = f"{len(baselines)}, {epochs:.4g} epochs, not counted in limits"
    if view.smaller:
        epochs = sum(record.epochs for record in view.smaller)
        found["smaller dense models"] = f"{len(view.smaller)}, {epochs:.4g} epochs on top"
    if reused:
        found["of them from an earlier run"] = f"{len(reused)}, trained there"
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
        f'<tr><td class="l">{record.title}</td><td class="l wrap">{escape(why)}</td></tr>'
        for record, why in found
    )
    table = f"<table><tbody>{rows}</tbody></table>"
    return folded(f"{title} ({len(found)})", table, is_open=is_open) if found else ""
