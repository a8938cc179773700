"""One trial in the terminal: how it ended, its costs, what each group lost, its training."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.budget import Cost
from autoprune.cost_fields import cost_fields, split_field
from autoprune.errors import StoreError
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.int8 import lines


def trial(view: RunView, number: int) -> RenderableType:
    """One trial in detail: how it ended, its costs, what each group lost, its training history.

    Raises StoreError for a number that the run does not have.
    """
    record = next((r for r in view.records if r.number == number), None)
    if record is None:
        known = _ranges([r.number for r in view.records]) or "none yet"
        raise StoreError(f"{view.name} has no trial {number} · trials: {known}")
    return Group(_facts(view, record), _ratios(view, record), _history(record))


def _ranges(numbers: Sequence[int]) -> str:
    """All numbers, those that follow one another as a range.

    >>> _ranges([7, 0, 1, 2, 4, 5])
    '0 to 2, 4, 5, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words)


def _facts(view: RunView, record: TrialRecord) -> Table:
    candidate = record.candidate
    selection, schedule, recovery = candidate.selection, candidate.schedule, candidate.recovery
    facts = {
        "trial": f"{record.number} ({record.candidate.key}), seed {record.seed}, {record.origin}",
        "state": record.state + (f": {text.last_line(record.error)}" if record.error else ""),
        "validation": ", ".join(f"{k} {text.metric(k, v)}" for k, v in record.metrics.items()),
        "predicted": _cost_line(record.predicted),
        "measured": _cost_line(record.measured),
        "noise": text.noise(record.measured),
        "verdict": view.verdict(record).text if record.state == "complete" else "",
        "precision": candidate.architecture.precision,
        "dropped blocks": view.dropped(record),
        "patterns": _patterns(view, record),
        "schedule": f"{schedule.kind}, progress {schedule.begin:g} to {schedule.end:g}, "
        f"{schedule.steps} step{'s' if schedule.steps > 1 else ''}",
        "importance": selection.importance + (", repair" if selection.repair else ""),
        "recovery": f"{record.optimizer or recovery.optimizer}, lr {text.rate(recovery.lr)}, "
        f"distillation {recovery.distillation:.2g}, "
        f"regularizer {recovery.regularizer:.2g}" + text.options(recovery, start=", "),
        "training": f"{record.epochs:g} epochs, {text.seconds(record.times.get('wall_s'))}",
        "model": record.artifact or "",
        "int8": _quantized(view, record),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(Text(name, "bold"), Text(value))
    return table


def _patterns(view: RunView, record: TrialRecord) -> str:
    words = view.patterns(record)
    return f"{words}; a smaller file, no faster" if words else ""


def _quantized(view: RunView, record: TrialRecord) -> str:
    """Both precisions of the trial's model, then of its retrained one; each says which it is."""
    shown: list[str] = []
    for name, report in view.quantized.get(record.number, {}).items():
        settings = report.settings
        how = f"{settings.method} of {settings.samples} samples, {settings.weight_bits}-bit weights"
        shown += [name, *lines(report), f"{how}; {report.file}, sha256 {report.sha256[:12]}…"]
    return "\n".join(shown)


def _ratios(view: RunView, record: TrialRecord) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("group", "pruned", ""):
        table.add_column(column, justify="right" if column == "pruned" else "left")
    zeros = {f"zeros in {name}": share for name, share in view.zeros(record).items() if share}
    for name, ratio in {**view.removed(record), **zeros}.items():
        bar = "█" * round(24 * ratio) + "░" * (24 - round(24 * ratio))
        table.add_row(Text(name), f"{100 * ratio:.0f} %", Text(bar, "blue"))
    return table


def _history(record: TrialRecord) -> RenderableType:
    if not record.history:
        return Text("no evaluation was reached", "dim")
    columns = list(dict.fromkeys(key for entry in record.history for key in entry))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column), justify="right")
    for entry in record.history:
        table.add_row(*(_entry(column, entry.get(column)) for column in columns))
    return table


def _entry(name: str, value: float | None) -> str:
    if value is None:
        return text.NONE
    return text.cost(name, value) if name == "params" else text.metric(name, value)


def _cost_line(cost: Cost | None) -> str:
    if cost is None:
        return ""
    parts = []
    for field in dict.fromkeys((*cost_fields(), *cost_fields(cost.names))):
        base, device = split_field(field)
        sure = text.sure(cost, device) if base == "latency_ms" else ""
        if (value := cost.value(field)) is not None:
            parts.append(f"{text.label(field)} {text.cost(field, value)} {sure}".strip())
    devices = [str(cost.device)] if cost.device else []
    devices += [f"{timing.name}: {timing.device}" for timing in cost.timings]
    return ", ".join(parts) + (f" ({'; '.join(devices)})" if devices else "")
