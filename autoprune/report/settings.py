"""The page's table of settings: how each member was pruned and trained."""

from __future__ import annotations

import re

from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import cell, escape, heads
from autoprune.report.style import colors

_ORIGINS = {
    "seed": "tried first, no random number",
    "uniform": "one ratio for every group",
    "least": "the widths with the least sensitivity at their cost",
    "rate": "at another learning rate",
    "screened": "chosen from a pool by a score before training",
    "shift": "units moved between the groups of a model of the front",
    "cross": "widths of two models of the front",
    "gap": "made where the front had no model",
    "recipe": "a model of the front, trained otherwise",
    "projected": "was over the budget and moved into it",
}


def settings(view: RunView) -> str:
    """The settings of each member: schedule, importance, recovery.

    What several members all have alike is said once, below the table.
    """
    every = [_values(view, record) for record in view.members]
    names = list(every[0]) if every else []
    alike = [name for name in names if len(every) > 1 and len({it[name] for it in every}) == 1]
    columns = [name for name in names if name not in alike]
    rows = []
    shades = colors(len(view.members))
    for record, values, shade in zip(view.members, every, shades, strict=True):
        mark = f'<span class="dot" style="background:{shade}"></span>'
        first = cell(f"{mark}trial {record.number}", "", "l full")
        rest = (cell(escape(values[name]), name) for name in columns)
        rows.append(f"<tr>{first}{''.join(rest)}</tr>")
    same = ", ".join(f"{name} {every[0][name]}" for name in alike)
    return (
        f'<div class="scroll"><table><thead><tr>{heads(("model", *columns))}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        + (f'<p class="note">The same in all: {escape(same)}.</p>' if same else "")
        + _origins(view)
    )


def _origins(view: RunView) -> str:
    """What the words of the members' origins mean."""
    used = {word for r in view.members for word in re.findall("[a-z]+", r.origin)}
    said = "; ".join(f"{word}: {meaning}" for word, meaning in _ORIGINS.items() if word in used)
    return f'<p class="note">Origin: {escape(said)}.</p>' if said else ""


def _values(view: RunView, record: TrialRecord) -> dict[str, str]:
    made = record.candidate
    schedule, recovery = made.schedule, made.recovery
    steps = f" in {schedule.steps}" if schedule.steps > 1 else ""
    return {
        "precision": made.architecture.precision,
        "blocks dropped": view.dropped(record) or "none",
        "patterns": view.patterns(record) or "none",
        "schedule": schedule.kind + steps,
        "progress": f"{schedule.begin:.3g} – {schedule.end:.3g}"
        if steps
        else f"at {schedule.begin:.3g}",
        "importance": made.selection.importance,
        "repair": "yes" if made.selection.repair else "no",
        "optimizer": record.optimizer or text.optimizer(recovery.optimizer),
        "lr": text.rate(recovery.lr),
        "distillation": f"{recovery.distillation:.2g}",
        "regularizer": f"{recovery.regularizer:.2g}",
        "options": text.options(recovery) or "none",
        "epochs": f"{record.epochs:g}",
        "origin": record.origin,
    }
