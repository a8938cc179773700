"""A run in the terminal: the front as a table, the state of the search, one trial in detail."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.budget import Cost
from autoprune.cost_fields import field_at, split_field
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.contents import BY_GOAL
from autoprune.report.data import RunView
from autoprune.report.health import findings
from autoprune.report.why import why
from autoprune.store import RetrainingSummary

_STYLES = {"complete": "green", "stopped": "yellow", "infeasible": "dim", "failed": "red"}
_MARKS = {"uniform": " ▫", "random": " ◇", "scratch": " 0", "smaller": " ◊"}
_MS, _P95 = "latency_ms", "latency_p95_ms"


def show(view: RunView) -> RenderableType:
    """All that `autoprune show RUN` prints: states, front, device, retrained models."""
    parts: list[RenderableType] = [summary(view), *_health(view), front_table(view)]
    parts += [retrained_table(view)] if view.retrained else []
    failed = [record for record in (*view.records, *view.smaller) if record.state == "failed"]
    parts += [Text(f"{r.title} failed: {text.last_line(r.error)}", "red") for r in failed]
    return Group(*parts)


def _health(view: RunView) -> list[Text]:
    """What is doubtful, each with what to do."""
    styles = {"bad": "red", "warn": "yellow"}
    return [
        Text(f"! {finding.text}\n  {finding.remedy}", styles[finding.level])
        for finding in findings(view)
    ]


def summary(view: RunView) -> RenderableType:
    """Task, budget, how the trials ended, what they took, and the front's hypervolume and knee."""
    lines = Text()
    lines.append(f"{view.title}", "bold").append(f"  run {view.name}, task {view.task}\n")
    budget = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    lines.append(f"budget  {budget or text.NONE}\n")
    for words in view.limits_of_predictions:
        lines.append(f"        trained where {words}\n")
    lines.append(_trials(view))
    if view.front is None or not view.members:
        lines.append(f"front   {view.without_model}", "yellow")
        return lines
    knee, found = view.front.knee, view.recommendation
    count = len(view.members)
    state = f"{count} model{'s' * (count != 1)}" + ("" if view.finished else " so far")
    state += " as measured" if view.front.source == "measured" else ""
    if found is not None:
        lines.append(f"pick    trial {found.record.number}: {why(view)}\n", "bold")
        if reduced := view.reduced(found.record):
            lines.append(f"        {reduced}\n")
    lines.append(f"front   {state}, knee trial {knee.number if knee else text.NONE}")
    if view.front.reference is not None:
        unit = " × ".join(objective.name for objective in view.front.objectives)
        lines.append(f", hypervolume {view.front.hypervolume:.4g} ({unit})")
    for limit, value, record in view.levels:
        lines.append(f"\nlevel   {text.limit(limit, value)}: {_level(view, record)}")
    if view.not_measured:
        lines.append(f"\n        not measured: {view.not_measured}", "yellow")
        lines.append(f"\n        measure it with: autoprune resume {view.place}", "yellow")
    return lines


def _trials(view: RunView) -> Text:
    """How the trials ended, what stands beside them, and what they took."""
    lines = Text(f"trials  {sum(view.own_states.values())}")
    for index, (state, count) in enumerate(view.own_states.items()):
        lines.append(", " if index else ": ").append(f"{count} {state}", _STYLES[state])
        if state == "complete" and view.over:
            lines.append(f" ({len(view.over)} over budget as measured)")
    for name, how_many in view.not_counted.items():
        lines.append(f"  ·  {name} {how_many}")
    if refused := view.states["infeasible"]:
        words = f"{refused} proposal{'s' * (refused != 1)} over budget as predicted, not trained"
        lines.append("  ·  ").append(words, _STYLES["infeasible"])
    ended = f", ended after {view.ended_by}" if view.ended_by else ""
    lines.append(f"  ·  {view.epochs:.4g} epochs, {text.seconds(view.wall_s)}{ended}\n")
    return lines


def _level(view: RunView, record: TrialRecord | None) -> str:
    if record is None:
        return "no finished model"
    name = view.metric.name if view.metric else ""
    return f"trial {record.number}, {name} {text.metric(name, view.metric_of(record))}"


def front_table(view: RunView) -> RenderableType:
    """The dense model and every member of the front; predicted and measured latency apart.

    With several devices, each model has a line for each of them, and no number of parameters:
    the bytes say the same, and a terminal is narrow. Where the bytes of the file or peak memory are
    a limit or an objective, parameters and weights are shown only where they are, too.
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
    predicted = ("predicted\nms",) if view.has_predicted_latency else ()
    for column in (*predicted, "measured\nms", "p95\nms", "speed-\nup"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(*_dense_cells(view, name), style="bold", end_section=True)
    knee, found = view.front.knee if view.front else None, view.recommendation
    for record in view.members:
        mark = " ★" if found is not None and record.number == found.record.number else ""
        mark += " ▲" if knee is not None and record.number == knee.number else ""
        mark += _MARKS.get(record.baseline, "")
        mark += " int8" if view.is_int8(record) else ""
        table.add_row(f"{record.number}{mark}", *_cells(view, record, name))
    others = [record for record in view.baselines if record not in view.members]
    for record in others:
        mark = f"{record.title.removeprefix('trial ')}{_MARKS[record.baseline]}"
        mark += " ✗" if view.over_budget(record) else ""
        table.add_row(mark, *_cells(view, record, name), style="dim")
    kinds = {record.baseline for record in view.baselines}
    marks = "★ recommended · ▲ knee" + (" · ▫ uniform pruning" if "uniform" in kinds else "")
    marks += " · ◇ random widths" if "random" in kinds else ""
    marks += " · 0 from scratch" if "scratch" in kinds else ""
    marks += " · ◊ smaller dense model" if "smaller" in kinds else ""
    if view.records and max(r.number for r in view.records) >= len(view.records):
        marks += " · trials are numbered by proposal, also by those not trained"
    shown = (view.dense.measured, *(r.measured for r in (*view.records, *view.smaller)))
    marks += " · ~ noisy measurement" if any(map(text.noise, shown)) else ""
    marks += " · ✗ over budget as measured" if any(map(view.over_budget, others)) else ""
    return Group(table, Text("\n".join((marks, *view.goal_notes, *device_lines(view))), "dim"))


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
    for column in ("model", "epochs", "trained with", "test, mean ± std", "dense", "to dense"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in view.retrained:
        table.add_row(*_retrained_cells(result))
    return table


def _dense_cells(view: RunView, name: str) -> list[str]:
    measured = view.dense.measured
    return [
        "dense",
        text.metric(name, view.dense.metrics.get(name)),
        "",
        *(text.cost(field, view.count(view.dense, field)) for field in _counts(view)),
        *_latencies(view, view.dense.predicted, measured),
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
        *(text.cost(field, view.count(record, field)) for field in _counts(view)),
        *_latencies(view, record.predicted, record.measured),
        Text("\n".join(speeds), style),
    ]


def _counts(view: RunView) -> tuple[str, ...]:
    if set(BY_GOAL) & set(view.counts):
        return tuple(field for field in view.counts if field == "macs" or field in view.goals)
    return view.counts[1:] if len(view.latencies) > 1 else view.counts


def _latencies(view: RunView, predicted: Cost | None, measured: Cost | None) -> list[str]:
    """Predicted, measured and its p95, in a line for each device; of several, their names first."""
    names = [split_field(field)[1] for field in view.latencies]
    columns = [names] if len(names) > 1 else []
    pairs = ((measured, _MS), (measured, _P95))
    for cost, field in ((predicted, _MS), *pairs) if view.has_predicted_latency else pairs:
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
    dense, changes = [], []
    for name, spread in result.test.items():
        before = result.dense.test.get(name)
        dense.append(text.metric(name, before))
        changes.append(text.change(name, None if before is None else spread.mean - before))
    return [
        f"trial {result.number}",
        f"{result.epochs:g}",
        text.seeds(result.seeds),
        Text("\n".join(test) or text.NONE),
        Text("\n".join(dense) or text.NONE),
        Text("\n".join(changes) or text.NONE),
    ]
