"""The page's table of settings: how each member was pruned and trained."""

from __future__ import annotations

from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import cell, escape, heads
from autoprune.report.style import colors


def settings(view: RunView) -> str:
    """The settings of each member: schedule, importance, recovery."""
    columns = (
        "model",
        "precision",
        "blocks dropped",
        "patterns",
        "schedule",
        "progress",
        "importance",
        "repair",
        "optimizer",
        "lr",
        "distillation",
        "regularizer",
        "options",
        "epochs",
        "origin",
    )
    rows = []
    for record, shade in zip(view.members, colors(len(view.members)), strict=True):
        made = record.candidate
        schedule, recovery = made.schedule, made.recovery
        steps = f" in {schedule.steps}" if schedule.steps > 1 else ""
        progress = f"{schedule.begin:g} – {schedule.end:g}" if steps else f"at {schedule.begin:g}"
        values = (
            made.architecture.precision,
            view.dropped(record) or "none",
            view.patterns(record) or "none",
            schedule.kind + steps,
            progress,
            made.selection.importance,
            "yes" if made.selection.repair else "no",
            record.optimizer or recovery.optimizer,
            text.rate(recovery.lr),
            f"{recovery.distillation:.2g}",
            f"{recovery.regularizer:.2g}",
            text.options(recovery) or "none",
            f"{record.epochs:g}",
            record.origin,
        )
        mark = f'<span class="dot" style="background:{shade}"></span>'
        first = cell(f"{mark}trial {record.number}", "", "l full")
        rest = (cell(escape(v), c) for v, c in zip(values, columns[1:], strict=True))
        rows.append(f"<tr>{first}{''.join(rest)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{heads(columns)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
