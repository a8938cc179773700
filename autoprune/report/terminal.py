"""A run in the terminal: the front as a table, the state of the search, one trial in detail."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.budget import Cost
from autoprune.cost_fields import cost_fields, field_at, split_field
from autoprune.errors import StoreError
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.int8 import lines
from autoprune.store import RetrainingSummary

_STYLES = {"complete": "green", "stopped": "yellow", "infeasible": "dim", "failed": "red"}
_COUNTS = ("params", "macs", "weight_bytes")
_MS, _P95 = "latency_ms", "latency_p95_ms"


def show(view: RunView) -> RenderableType:
    """All that `autoprune show RUN` prints: states, front, device, retrained models."""
    parts: list[RenderableType] = [summary(view), front_table(view)]
    parts += [retrained_table(view)] if view.retrained else []
    failed = [record for record in view.records if record.state == "failed"]
    parts += [Text(f"trial {r.number} failed: {text.last_line(r.error)}", "red") for r in failed]
    return Group(*parts)


def summary(view: RunView) -> RenderableType:
    """Task, budget, how the trials ended, what they took, and the front's hypervolume and knee."""
    lines = Text()
    lines.append(f"{view.name}", "bold").append(f"  task {view.task}\n")
    budget = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    lines.append(f"budget  {budget or text.NONE}\n")
    lines.append(f"trials  {len(view.records)}: ")
    for index, (state, count) in enumerate(view.states.items()):
        lines.append(", " if index else "").append(f"{count} {state}", _STYLES[state])
    lines.append(f"  ·  {view.epochs:.4g} epochs, {text.seconds(view.wall_s)}\n")
    if view.front is None or not view.members:
        lines.append(f"front   {view.without_model}", "yellow")
        return lines
    knee = view.front.knee
    state = f"{len(view.members)} models" + ("" if view.finished else " so far")
    lines.append(f"front   {state}, knee trial {knee.number if knee else text.NONE}")
    if view.front.reference is not None:
        lines.append(f", hypervolume {view.front.hypervolume:.4g}")
    for limit, value, record in view.levels:
        lines.append(f"\nlevel   {text.limit(limit, value)}: {_level(view, record)}")
    if view.not_measured:
        lines.append(f"\n        not measured: {view.not_measured}", "yellow")
        lines.append("\n        measure it with: autoprune resume", "yellow")
    return lines


def _level(view: RunView, record: TrialRecord | None) -> str:
    if record is None:
        return "no finished model"
    name = view.metric.name if view.metric else ""
    return f"trial {record.number}, {name} {text.metric(name, view.metric_of(record))}"


def front_table(view: RunView) -> RenderableType:
    """The dense model and every member of the front; predicted and measured latency apart.

    With several devices, each model has a line for each of them, and no number of parameters:
    the bytes say the same, and a terminal is narrow.
    """
    name = view.metric.name if view.metric else "metric"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    table.add_column("trial", no_wrap=True)
    for column in (
        f"val\n{name}",
        "to\ndense",
        *(field.replace("_", "\n") for field in _counts(view)),
    ):
        table.add_column(Text(column), justify="right", no_wrap=True)
    if len(view.latencies) > 1:
        table.add_column("device", no_wrap=True)
    for column in ("predicted\nms", "measured\nms", "its p95\nms", "speed-\nup"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(*_dense_cells(view, name), style="bold", end_section=True)
    knee = view.front.knee if view.front else None
    for record in view.members:
        mark = " ◆" if knee is not None and record.number == knee.number else ""
        mark += " ▫" if record in view.uniform else ""
        mark += " int8" if view.is_int8(record) else ""
        table.add_row(f"{record.number}{mark}", *_cells(view, record, name))
    for record in (r for r in view.uniform if r not in view.members):
        table.add_row(f"{record.number} ▫", *_cells(view, record, name), style="dim")
    marks = "◆ knee" + (" · ▫ uniform pruning" if view.uniform else "")
    shown = (view.dense.measured, *(record.measured for record in view.records))
    marks += " · ~ noisy measurement" if any(map(text.noise, shown)) else ""
    return Group(table, Text(f"{marks} · " + "\n".join(device_lines(view)), "dim"))


def device_line(view: RunView) -> str:
    """Where the latencies hold: measured and predicted are named apart.

    A latency is never shown without its device, runtime, dtype, batch and threads.
    """
    return "; ".join(device_lines(view))


def device_lines(view: RunView) -> list[str]:
    """The same, apart for each device."""
    return [_device_words(view, field) for field in view.latencies]


def _device_words(view: RunView, field: str) -> str:
    name = split_field(field)[1]
    latency = f"Latency on {name}" if name else "Latency"
    measured = _device(name, view.dense.measured, *(r.measured for r in view.records))
    predicted = _device(name, view.dense.predicted, *(r.predicted for r in view.records))
    if measured is None and predicted is None:
        return f"{latency}: neither predicted nor measured"
    if measured == predicted:
        return f"{latency} predicted for and measured on: {measured}"
    parts = [f"predicted for: {predicted}"] if predicted else []
    missing = "not measured" if view.is_predicted_only(field) else "not measured yet"
    parts += [f"measured on: {measured}"] if measured else [missing]
    return f"{latency} " + " · ".join(parts)


def retrained_table(view: RunView) -> Table:
    """Retrained members: test metrics as mean ± standard deviation over seeds."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title="retrained models")
    table.title_justify = "left"
    for column in ("model", "epochs", "seeds", "test, mean ± std", "dense, test"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in view.retrained:
        table.add_row(*_retrained_cells(result))
    return table


def trial(view: RunView, number: int) -> RenderableType:
    """One trial in detail: how it ended, its costs, what each group lost, its training history.

    Raises StoreError for a number that the run does not have.
    """
    record = next((r for r in view.records if r.number == number), None)
    if record is None:
        known = ", ".join(str(r.number) for r in view.records[:8]) or "none yet"
        raise StoreError(f"{view.name} has no trial {number} · trials: {known}")
    return Group(_facts(view, record), _ratios(view, record), _history(record))


def _dense_cells(view: RunView, name: str) -> list[str]:
    counts, measured = view.dense.predicted, view.dense.measured
    return [
        "dense",
        text.metric(name, view.dense.metrics.get(name)),
        "",
        *(text.cost(field, counts.value(field) if counts else None) for field in _counts(view)),
        *_latencies(view, counts, measured),
        "\n".join(
            "1.00×" if measured and measured.value(field) else text.NONE for field in view.latencies
        ),
    ]


def _cells(view: RunView, record: TrialRecord, name: str) -> list[str | Text]:
    value = view.metric_of(record)
    ratios = [view.speedup(record, field) for field in view.latencies]
    speeds = (f"{ratio:.2f}×" if ratio else text.NONE for ratio in ratios)
    style = {True: "green", False: "red", None: ""}[view.verdict(record).good]
    return [
        text.metric(name, value),
        text.change(name, view.change(value)),
        *(
            text.cost(field, record.predicted.value(field) if record.predicted else None)
            for field in _counts(view)
        ),
        *_latencies(view, record.predicted, record.measured),
        Text("\n".join(speeds), style),
    ]


def _counts(view: RunView) -> tuple[str, ...]:
    return _COUNTS[1:] if len(view.latencies) > 1 else _COUNTS


def _latencies(view: RunView, predicted: Cost | None, measured: Cost | None) -> list[str]:
    """Predicted, measured and its p95, in a line for each device; of several, their names first."""
    names = [split_field(field)[1] for field in view.latencies]
    columns = [names] if len(names) > 1 else []
    for cost, field in ((predicted, _MS), (measured, _MS), (measured, _P95)):
        columns.append([_ms(cost, field, name) for name in names])
    return ["\n".join(lines) for lines in columns]


def _ms(cost: Cost | None, field: str, name: str) -> str:
    value = cost.value(field_at(field, name)) if cost else None
    if cost is None or value is None:
        return text.NONE
    mark = "~" if field == _MS and cost.note(name) else ""
    return mark + text.three_digits(value)


def _device(name: str, *costs: Cost | None) -> str | None:
    found = (cost.device_of(name) for cost in costs if cost is not None)
    names = dict.fromkeys(str(device) for device in found if device)
    return " | ".join(names) or None


def _retrained_cells(result: RetrainingSummary) -> list[str | Text]:
    test = [f"{name} {text.spread(name, v.mean, v.std)}" for name, v in result.test.items()]
    dense = [f"{name} {text.metric(name, value)}" for name, value in result.dense.test.items()]
    seeds = ", ".join(str(seed) for seed in result.seeds)
    return [
        f"trial {result.number}",
        f"{result.epochs:g}",
        seeds,
        Text("\n".join(test) or text.NONE),
        Text("\n".join(dense) or text.NONE),
    ]


def _facts(view: RunView, record: TrialRecord) -> Table:
    candidate = record.candidate
    selection, schedule, recovery = candidate.selection, candidate.schedule, candidate.recovery
    facts = {
        "trial": f"{record.number} ({record.candidate.key}), seed {record.seed}, {record.origin}",
        "state": record.state + (f": {text.last_line(record.error)}" if record.error else ""),
        "validation": ", ".join(f"{k} {text.metric(k, v)}" for k, v in record.metrics.items()),
        "predicted": _cost_line(record.predicted),
        "measured": _cost_line(record.measured),
        "verdict": view.verdict(record).text if record.state == "complete" else "",
        "precision": candidate.architecture.precision,
        "dropped blocks": view.dropped(record),
        "patterns": _patterns(view, record),
        "schedule": f"{schedule.kind}, progress {schedule.begin:g} to {schedule.end:g}, "
        f"{schedule.steps} step{'s' if schedule.steps > 1 else ''}",
        "importance": selection.importance + (", repair" if selection.repair else ""),
        "recovery": f"{record.optimizer or recovery.optimizer}, lr {text.rate(recovery.lr)}, "
        f"distillation {recovery.distillation:.2g}, "
        f"regularizer {recovery.regularizer:.2g}",
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
    report = view.quantized.get(record.number)
    if report is None:
        return ""
    settings = report.settings
    how = f"{settings.method} of {settings.samples} samples, {settings.weight_bits}-bit weights"
    return "\n".join((*lines(report), f"{how}; {report.file}, sha256 {report.sha256[:12]}…"))


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
        sure = text.sure(cost, device) if base == _MS else ""
        if (value := cost.value(field)) is not None:
            parts.append(f"{text.label(field)} {text.cost(field, value)} {sure}".strip())
    parts += [noise] if (noise := text.noise(cost)) else []
    devices = [str(cost.device)] if cost.device else []
    devices += [f"{timing.name}: {timing.device}" for timing in cost.timings]
    return ", ".join(parts) + (f" ({'; '.join(devices)})" if devices else "")
