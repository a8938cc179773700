"""The joint front of a search from several starting models: in the terminal, and in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.budget import Cost
from autoprune.cost_fields import is_cost, is_latency
from autoprune.errors import UsageError
from autoprune.joint import JointFront
from autoprune.printable import quoted
from autoprune.record import TrialRecord
from autoprune.report import html, text
from autoprune.report.formats import FORMATS, draw_light, format_of
from autoprune.report.health import Finding, findings
from autoprune.report.markup import cell, escape, heads, section
from autoprune.report.read import read, relative
from autoprune.report.style import Figure, axis, colors, layout
from autoprune.report.summary import commands, health
from autoprune.store import DenseReport, RunFolder, write_bytes

_COUNTS = ("params", "macs", "weight_bytes")


@dataclass(frozen=True)
class Row:
    """A model of the table: a dense one, a member of the joint front, or a baseline by its kind.

    `trial` is its number, or a smaller dense model's name.
    """

    who: str
    start: str
    values: tuple[float | None, ...]
    tags: tuple[str, ...] = ()
    trial: str = ""
    baseline: str = ""

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense model of a run."""
        return not self.trial


def show(joint: JointFront) -> RenderableType:
    """All that `autoprune show RUN` prints of a search from several starting models."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model")
    for column in columns(joint):
        table.add_column(_title(joint, column), justify="right")
    for row in rows(joint):
        marks = "".join(f" {_MARKS[tag]}" for tag in row.tags)
        style = "bold" if row.is_dense else "dim" if row.baseline else ""
        table.add_row(row.who + marks, *_texts(joint, row), style=style)
    parts: list[RenderableType] = [Text(_head(joint), "bold")]
    parts += [Text(f"! {words}", "yellow") for words in joint.notes]
    parts += [Text(f"! {it.text}\n  {it.remedy}", "yellow") for it in doubts(joint)]
    return Group(*parts, table, Text(f"{_legend()}\n{_shares(joint)}", "dim"))


_MARKS = {"recommended": "★", "knee": "▲"}


def _legend() -> str:
    return " · ".join(f"{mark} {tag}" for tag, mark in _MARKS.items())


def doubts(joint: JointFront) -> list[Finding]:
    """What is doubtful about the runs, each after the name of the starting model."""
    return [
        replace(finding, text=f"{name}: {finding.text}")
        for name, run in joint.runs.items()
        for finding in findings(read(run), is_part=True)
    ]


def columns(joint: JointFront) -> list[str]:
    """The objectives, and counts that are none."""
    names = [objective.name for objective in joint.front.objectives]
    return [*names, *(name for name in _COUNTS if name not in names)]


def rows(joint: JointFront) -> Iterator[Row]:
    """The dense models, the joint front by rising cost, and the baselines of each run.

    Runs are in the order of the configuration.
    """
    names = columns(joint)
    for name in joint.runs:
        values = tuple(_dense_value(joint, joint.dense(name), column) for column in names)
        yield Row(f"{name}, dense", name, values)
    found, knee = joint.recommendation, joint.front.knee
    picks = {"recommended": found.record if found else None, "knee": knee}
    for record in joint.front.members:
        tags = tuple(word for word, picked in picks.items() if picked is record)
        values = tuple(joint.front.value(column, record) for column in names)
        yield Row(joint.named(record), joint.start_of(record), values, tags, str(record.number))
    for name, records in joint.baselines.items():
        for record in records:
            who = f"{name}, {record.baseline}, {record.title}"
            values = tuple(joint.front.value(column, record) for column in names)
            trial = record.title.removeprefix("trial ")
            yield Row(who, name, values, (), trial, record.baseline)


def write(
    run: RunFolder,
    format: str | None = None,  # noqa: A002 - the option's name
    file: Path | None = None,
) -> Path:
    """Write the joint front of a search as a page, a table or a picture; returns its path.

    Without a format it is that of the file's ending. Raises UsageError for another format, and
    where a picture has no browser that draws it.
    """
    name = format_of(format, file)
    place = file or run.path / FORMATS[name][0]
    joint = JointFront.read(run)
    content = page(joint, place.parent) if name == "html" else _CONTENTS[name](joint)
    return write_bytes(place, content if isinstance(content, bytes) else content.encode())


def single_reports(run: RunFolder) -> Iterator[Path]:
    """Write the report of each starting model's run; yields their paths."""
    for folder in JointFront.read(run).runs.values():
        yield html.write(folder)


def markdown(joint: JointFront) -> str:
    """The joint front as a table."""
    names = columns(joint)
    lines = [f"# {_head(joint)}", "", *(f"- {words}" for words in joint.notes)]
    lines += [*(f"- {finding.text} *{finding.remedy}*" for finding in doubts(joint)), ""]
    lines += [f"| model | {' | '.join(_title(joint, n) for n in names)} |"]
    lines += [f"|---|{'---:|' * len(names)}"]
    for row in rows(joint):
        who = ", ".join([row.who, *(f"**{tag}**" for tag in row.tags)])
        lines.append(f"| {who} | {' | '.join(_texts(joint, row))} |")
    return "\n".join([*lines, "", f"{_shares(joint)}."]) + "\n"


def table_csv(joint: JointFront) -> str:
    """The same as numbers: dense models have no trial."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["starting_model", "trial", "baseline", *columns(joint)])
    for row in rows(joint):
        values = ("" if v is None else v for v in row.values)
        writer.writerow([row.start, row.trial, row.baseline, *values])
    return out.getvalue()


def page(joint: JointFront, folder: Path | None = None) -> str:
    """One self-contained page: the fronts of all starting models in one plot, and the table.

    It leads to the reports of the runs, from `folder` (default: that of the search).
    """
    kind = f"autoprune report · run <b>{escape(joint.run.path.resolve().name)}</b>"
    lead = f'<p class="lead">{escape(_recommended(joint))}</p>'
    body = [f'<header><div class="kind">{kind}</div><h1>{escape(_task(joint))}</h1>{lead}</header>']
    body += [f'<p class="warn">{escape(words)}</p>' for words in joint.notes]
    body.append(health(doubts(joint)))
    found, words = joint.recommendation, "Train the recommended model in full, then write it:"
    if found is not None:
        body.append(commands(relative(joint.run.path), joint.run.config, found.record, words))
    figure = plot(joint)
    if figure is not None:
        words = "Lines are what each starting model can be pruned to; large dots are the joint "
        words += "front, diamonds the dense models, open squares baselines."
        place = f'<p>{words}</p><div class="plot" data-figure="joint"></div>{_colored(joint)}'
        body.append(section("Joint front", place))
    body.append(section("Models", _html_table(joint)))
    body.append(section("Runs", _links(joint, folder or joint.run.path)))
    return html.document(_task(joint), {"joint": figure} if figure else {}, body)


def plot(joint: JointFront) -> Figure | None:
    """The metric against the first cost; None where the objectives have not both."""
    names = [objective.name for objective in joint.front.objectives]
    metric = next((name for name in names if not is_cost(name)), None)
    cost = next((name for name in names if is_cost(name)), None)
    if metric is None or cost is None:
        return None
    percent = 100.0 if text.is_share(metric) else 1.0
    on_front = {id(record) for record in joint.front.members}
    traces: list[Figure] = []
    for (name, front), color in zip(joint.fronts.items(), _shades(joint), strict=True):
        points = _points(joint, front.members, cost, metric)
        dense = joint.dense(name)
        beside = _dense_value(joint, dense, cost), dense.metrics.get(metric)
        traces.append(
            _trace(name, [(x, y) for x, y, _ in points], [f"trial {r.number}" for *_, r in points])
            | {"mode": "lines+markers", "line": {"color": color, "width": 2, "shape": "hv"}}
            | {
                "marker": {
                    "color": color,
                    "size": [13 if id(r) in on_front else 6 for *_, r in points],
                }
            }
        )
        if beside[0] is not None and beside[1] is not None:
            marker = {"symbol": "diamond", "size": 14, "color": color}
            dense_point = _trace(name, [(beside[0], beside[1] * percent)], ["dense"])
            traces.append(dense_point | {"mode": "markers", "marker": marker})
        others = _points(joint, joint.baselines[name], cost, metric)
        traces += [_baselines(name, others, color)] if others else []
    unit = ", ms" if is_latency(cost) else ""
    title = f"{_title(joint, cost)}{unit}"
    share = ", %" if text.is_share(metric) else ""
    drawn = layout(
        height=460,
        xaxis=axis(escape(title), rangemode="tozero"),
        yaxis=axis(f"validation {escape(metric)}{share}"),
    )
    return {"data": traces, "layout": drawn}


def _points(
    joint: JointFront, records: Iterable[TrialRecord], cost: str, metric: str
) -> list[tuple[float, float, TrialRecord]]:
    """Cost and metric, a share in percent, of the records that have both."""
    percent = 100.0 if text.is_share(metric) else 1.0
    return [
        (x, y * percent, record)
        for record in records
        if (x := joint.front.value(cost, record)) is not None
        and (y := joint.front.value(metric, record)) is not None
    ]


def _baselines(name: str, points: list[tuple[float, float, TrialRecord]], color: str) -> Figure:
    words = [f"{record.baseline}, {record.title}" for *_, record in points]
    marker = {"symbol": "square-open", "size": 9, "color": color}
    trace = _trace(name, [(x, y) for x, y, _ in points], words)
    return trace | {"mode": "markers", "marker": marker}


def _trace(name: str, points: list[tuple[float, float]], words: list[str]) -> Figure:
    return {
        "type": "scatter",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "text": [f"<b>{escape(name)}</b>, {escape(each)}" for each in words],
        "hovertemplate": "%{text}<br>%{y:.4g}<br>%{x:.3g}<extra></extra>",
        "cliponaxis": False,
    }


def _picture(joint: JointFront) -> bytes:
    figure = plot(joint)
    if figure is None:
        raise UsageError("a picture needs a metric and a cost among the objectives")
    body = [f'<div class="plot" data-figure="joint"></div>{_colored(joint)}']
    return draw_light(html.document(_task(joint), {"joint": figure}, body))


def _html_table(joint: JointFront) -> str:
    names = columns(joint)
    shades = dict(zip(joint.runs, _shades(joint), strict=True))
    lines = []
    for row in rows(joint):
        mark = f'<span class="dot" style="background:{shades[row.start]}"></span>'
        tags = "".join(f'<span class="tag">{tag}</span>' for tag in row.tags)
        kind = "dense" if row.is_dense else "chosen" if "recommended" in row.tags else ""
        cells = "".join(
            cell(escape(words), _title(joint, name))
            for words, name in zip(_texts(joint, row), names, strict=True)
        )
        who = cell(f"{mark}{escape(row.who)}{tags}", "", "l full")
        lines.append(f'<tr class="{kind}">{who}{cells}</tr>')
    head = heads(["model", *(_title(joint, name) for name in names)])
    return (
        f'<div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="note">{escape(_shares(joint))}. '
        "Metrics are of the validation split.</p>"
    )


def _colored(joint: JointFront) -> str:
    """The names of the starting models, with their colors."""
    items = "".join(
        f'<li><span class="dot" style="background:{color}"></span>{escape(name)}</li>'
        for name, color in zip(joint.runs, _shades(joint), strict=True)
    )
    return f'<ul class="legend">{items}</ul>'


def _links(joint: JointFront, folder: Path) -> str:
    """Each run has a report of its own."""
    items = "".join(
        f'<li><a href="{escape(relative(run.path / "report.html", folder))}">{escape(name)}</a> '
        f'<span class="dim">autoprune report {escape(quoted(relative(run.path)))}</span></li>'
        for name, run in joint.runs.items()
    )
    return f"<ul>{items}</ul>"


def _shades(joint: JointFront) -> list[str]:
    return colors(len(joint.runs))


def _task(joint: JointFront) -> str:
    task = joint.run.config.task
    return task.rpartition(":")[2] or task


def _head(joint: JointFront) -> str:
    return f"{_task(joint)}: {_recommended(joint)}"


def _recommended(joint: JointFront) -> str:
    found, count = joint.recommendation, len(joint.front)
    starts = f"{len(joint.runs)} starting model{'s' * (len(joint.runs) != 1)}"
    models = f"{count} model{'s' * (count != 1)} from {starts}"
    if found is None:
        return models
    limits = " and ".join(str(limit) for limit in found.limits)
    reference = next(iter(joint.runs))
    why = f"cheapest with {limits}" if found.is_within else "the nearest to what was asked"
    return f"{models}; recommended is {joint.named(found.record)} ({why}; dense is {reference})"


def _shares(joint: JointFront) -> str:
    """How much each starting model adds, in hypervolume and in trials."""
    whole = joint.front.hypervolume if joint.front.reference else 0.0
    parts = []
    for name, lost in joint.contributions().items() if whole else ():
        count = joint.state.trials(name)
        trials = f", {count} trial{'s' * (count != 1)}" if joint.state.rounds else ""
        parts.append(f"{name} {100 * lost / whole:.1f} %{trials}")
    return f"Hypervolume that would be lost without a starting model: {'; '.join(parts)}"


def _title(joint: JointFront, name: str) -> str:
    if not is_cost(name):
        return f"val {name}"
    return (
        f"{joint.front.source_of(name)} {text.label(name)}"
        if is_latency(name)
        else text.label(name)
    )


def _texts(joint: JointFront, row: Row) -> list[str]:
    return [
        text.cost(name, value) if is_cost(name) else text.metric(name, value)
        for name, value in zip(columns(joint), row.values, strict=True)
    ]


def _dense_value(joint: JointFront, dense: DenseReport, name: str) -> float | None:
    if not is_cost(name):
        return dense.metrics.get(name)
    source: Cost | None = getattr(dense, joint.front.source_of(name))
    costs = [source] if is_latency(name) else [source, dense.predicted, dense.measured]
    return next((v for cost in costs if cost and (v := cost.value(name)) is not None), None)


_CONTENTS: Mapping[str, Callable[[JointFront], str | bytes]] = {
    "md": markdown,
    "csv": table_csv,
    "png": _picture,
}
