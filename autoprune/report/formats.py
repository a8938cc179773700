"""A run's report in a file: the page, tables as Markdown or CSV, the front as a picture."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from autoprune.budget import Cost
from autoprune.cost_fields import FILE, MEMORY
from autoprune.errors import UsageError, WorkError
from autoprune.pareto import CostSource
from autoprune.record import TrialRecord
from autoprune.report import html, text
from autoprune.report.data import RunView
from autoprune.report.health import findings
from autoprune.report.read import read
from autoprune.report.why import why
from autoprune.store import DenseReport, RunFolder, table_rows, write_bytes

_HEADS = {"params": "params", "macs": "MACs", "weight_bytes": "weights"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
_LIGHT = '<html lang="en" data-theme="light">'
_TIGHT = "<style>main { padding: 16px 20px !important; max-width: none !important; }</style></head>"


def write(
    run: RunFolder,
    format: str | None = None,  # noqa: A002 - the option's name
    file: Path | None = None,
) -> Path:
    """Write `report.html`, `report.md`, `front.csv` or `front.png`, or `file`; returns its path.

    Without a format it is that of the file's ending. Raises UsageError for another format, and
    where a picture has no browser that draws it.
    """
    name = format_of(format, file)
    return write_bytes(file or run.path / FORMATS[name][0], FORMATS[name][1](run))


def format_of(name: str | None, file: Path | None = None) -> str:
    """The given format, or what a file's ending says: html without either.

    Raises UsageError for another one, and where the ending is that of another format.
    """
    known, ending = ", ".join(FORMATS), file.suffix.removeprefix(".") if file else "html"
    if name is None and ending not in FORMATS:
        raise UsageError(
            f"{file} must end with one of .{known.replace(' ', ' .')} · or say --format"
        )
    found = name or ending
    if found not in FORMATS:
        raise UsageError(f"format must be one of {known}, got {found!r}")
    if file is not None and ending in FORMATS and ending != found:
        raise UsageError(
            f"{file} ends like {ending}, and the format is {found} · leave one of them out, or "
            f"write {file.with_suffix('.' + found)}"
        )
    return found


def markdown(view: RunView) -> str:
    """The result, what is doubtful and the front as a table."""
    budget = ", ".join(text.limit(limit, value) for limit, value in view.limits)
    lines = [f"# {view.title}", "", f"Run `{view.name}`, budget: {budget}.", ""]
    found = view.recommendation
    if found is not None:
        lines += [f"Recommended: trial {found.record.number}, {why(view)}.", ""]
    lines += [f"- {finding.text} *{finding.remedy}*" for finding in findings(view)]
    lines += ["", *_table(view), "", *(f"{words}." for words in _notes(view))]
    return "\n".join(lines).rstrip() + "\n"


def _table(view: RunView) -> Iterator[str]:
    name = view.metric.name if view.metric else "metric"
    latencies = _latencies(view)
    names = {FILE: "file", MEMORY: "peak memory"}
    counts = [_HEADS.get(f) or f"{names[f]}, {view.source_of(f)}" for f in view.counts]
    times = [f"{source} {text.label(field)}, ms" for field, source in latencies]
    columns = ["model", f"val {name}", "to dense", *counts, *times]
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    dense = view.dense
    rows: list[tuple[str, float | None, DenseReport | TrialRecord]]
    rows = [("dense", dense.metrics.get(name), dense)]
    for record in (*view.members, *(r for r in view.baselines if r not in view.members)):
        words = [record.title, *_words(view, record.number)]
        words += [record.baseline] if record.baseline else []
        value = view.metric_of(record)
        rows.append((", ".join(words), value, record))
    for who, value, model in rows:
        change = "" if who == "dense" else text.change(name, view.change(value))
        counts = [text.cost(field, view.count(model, field)) for field in view.counts]
        times = [_time(getattr(model, source), field) for field, source in latencies]
        yield f"| {' | '.join([who, text.metric(name, value), change, *counts, *times])} |"


def _latencies(view: RunView) -> list[tuple[str, CostSource]]:
    """The latencies that some model has, predicted and measured apart."""
    models = (view.dense, *view.members, *view.baselines)
    sources: tuple[CostSource, ...] = ("predicted", "measured")
    return [
        (field, source)
        for field in view.latencies
        for source in sources
        if any(_time(getattr(model, source), field) for model in models)
    ]


def _time(cost: Cost | None, field: str) -> str:
    value = cost.value(field) if cost else None
    return "" if value is None else text.three_digits(value)


def _words(view: RunView, number: int) -> list[str]:
    found, knee = view.recommendation, view.front.knee if view.front else None
    picks = {"recommended": found.record if found else None, "knee": knee}
    return [f"**{word}**" for word, record in picks.items() if record and record.number == number]


def _notes(view: RunView) -> list[str]:
    from autoprune.report.terminal import device_lines

    return device_lines(view)


def _html(run: RunFolder) -> bytes:
    return html.page(read(run)).encode()


def _markdown(run: RunFolder) -> bytes:
    return markdown(read(run)).encode()


def _csv(run: RunFolder) -> bytes:
    """The front and the baselines with the columns of `trials.csv`.

    Smaller dense models are last, without a number, and without ratios: these are of other groups.
    """
    view = read(run)
    known = (r for r in view.baselines if r not in view.members and r not in view.smaller)
    rows = list(table_rows((*view.members, *known), run.sizes()))
    smaller = [record for record in view.smaller if record.baseline]
    rows += [row | {"number": None} for row in table_rows(smaller, {})]
    out = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _png(run: RunFolder) -> bytes:
    view = read(run)
    if not view.members:
        raise UsageError(f"{run.path} has no front to draw yet")
    return picture(view)


def picture(view: RunView, axis: str | None = None, size: tuple[int, int] = (960, 550)) -> bytes:
    """The front as a PNG in the light theme, with twice the pixels, drawn by a browser.

    `axis` is the cost, as `front_axes.axes` names it. Raises UsageError without a browser.
    """
    return draw_light(html.front_page(view, axis), size)


def draw_light(page: str, size: tuple[int, int] = (960, 550)) -> bytes:
    """A page of one plot as a PNG in the light theme, likewise."""
    return draw(page.replace('<html lang="en">', _LIGHT, 1).replace("</head>", _TIGHT, 1), size)


def draw(page: str, size: tuple[int, int]) -> bytes:
    """A page as a PNG with twice as many pixels. Raises UsageError without a browser."""
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        raise UsageError(
            f"a picture needs a browser on the PATH: one of {', '.join(BROWSERS)} · without one, "
            "a notebook draws the front of autoprune.Result.read(RUN)"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "front.html", Path(folder) / "front.png"
        source.write_text(page, encoding="utf-8")
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
            *("--disable-background-networking", "--no-first-run", "--hide-scrollbars"),
            *(f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2"),
            *(f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=5000"),
            *(f"--screenshot={target}", source.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if not target.is_file():
            raise WorkError(f"{browser} drew nothing: {done.stderr.strip()[-300:]}")
        return target.read_bytes()


FORMATS: dict[str, tuple[str, Callable[[RunFolder], bytes]]] = {
    "html": ("report.html", _html),
    "md": ("report.md", _markdown),
    "csv": ("front.csv", _csv),
    "png": ("front.png", _png),
}
