"""One self-contained HTML file of a run: it makes no request and needs no server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoprune.errors import UsageError
from autoprune.report import appendix, figures, front_plot, front_section, network, sections, tables
from autoprune.report import summary as summaries
from autoprune.report.data import RunView
from autoprune.report.markup import escape
from autoprune.report.memory import memory
from autoprune.report.read import read
from autoprune.store import RunFolder, write_text

PLOTLY = "plotly-basic.min.js.gz"  # scatter, bar and pie; scripts/plotly_bundle takes a newer one
_LONG = 80  # characters
_HERE = Path(__file__).parent
_POLICY = (  # the browser itself refuses requests, and scripts other than the two of these hashes
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"  # plotly.js sets style attributes
)


def write(run: RunFolder | str | Path, file: str | Path | None = None) -> Path:
    """Write the report of a run, finished or in progress; returns its path.

    By default as `report.html` into the run's folder.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    text = page(read(folder))
    return folder.write_report(text) if file is None else write_text(Path(file), text)


def page(view: RunView) -> str:
    """The whole page as text; plotly.js is inside (half a megabyte, compressed)."""
    drawn = _figures(view)
    return document(view.title, drawn, _body(view, drawn))


def front_page(view: RunView, axis: str | None = None) -> str:
    """The front plot and its legend alone, for a picture; `axis` as `front_plot.axes` has it.

    Raises UsageError for an axis on which this run has no finished model.
    """
    axes = front_plot.fronts(view)
    if axis is not None and axis not in axes:
        raise UsageError(f"axis must be one of {', '.join(axes)}, got {axis!r}")
    drawn = {"front": axes if axis is None else {axis: axes[axis]}}
    return document(view.title, drawn, [front_section.front_alone(drawn["front"], view)])


def document(title: str, drawn: dict[str, Any], body: list[str]) -> str:
    """A page that draws figure `drawn[name]` into each element with `data-figure="name"`."""
    plotly, script = (_HERE / PLOTLY).read_bytes(), _asset("report.js")
    policy = _POLICY.format(scripts=f"{_hash(script.encode())} {_hash(gzip.decompress(plotly))}")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{escape(title)} · autoprune</title>",
            f"<style>{_asset('report.css')}</style></head><body><main>",
            *body,
            "</main>",
            f'<script type="text/plain" id="figures">{packed(_shared(drawn))}</script>',
            f"<!-- {_license(plotly)} -->",
            f'<script type="text/plain" id="plotly">{base64.b64encode(plotly).decode()}</script>',
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def packed(value: object) -> str:
    """JSON, compressed, in base64: safe inside a script element, and small with 1,000 trials.

    Numbers have six digits; those that are not finite become null.
    """
    text = json.dumps(_plain(value), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _figures(view: RunView) -> dict[str, Any]:
    metric = view.metric.name if view.metric else None
    drawn: dict[str, Any] = {
        "front": front_plot.fronts(view),
        "network": network.figure(view),
        "hypervolume": figures.hypervolume(view),
        "ratios": figures.ratios(view),
        "schedules": figures.schedules(view),
        "history_metric": figures.history(view, metric) if metric else None,
        "history_loss": figures.history(view, "train_loss"),
    }
    for index, field in enumerate(view.latencies):
        drawn[f"prediction_{index}"] = figures.prediction(view, field)
    for index, (_, figure) in enumerate(figures.importances(view).items()):
        drawn[f"importance_{index}"] = figure
    return {name: figure for name, figure in drawn.items() if figure}


def _body(view: RunView, drawn: dict[str, Any]) -> list[str]:
    parts = [
        summaries.head(view),
        front_section.front(view, drawn),
        tables.models(view),
        network.network(view, drawn),
        memory(view),
        tables.retrained(view),
        sections.removed(view, drawn),
        sections.training(view, drawn),
        sections.prediction(view, drawn),
        sections.importances(view, drawn),
        appendix.search(view, drawn),
        appendix.details(view),
        appendix.foot(view),
    ]
    return [part for part in parts if part]


def _license(bundle: bytes) -> str:
    """The notice at the bundle's start on one line: name, version, copyright, license."""
    notice = gzip.decompress(bundle)[:500].decode().partition("*/")[0]
    return " ".join(notice.replace("*", " ").split()).lstrip("/ ")


def _hash(script: bytes) -> str:
    """How a content-security policy names an inline script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _shared(drawn: dict[str, Any]) -> dict[str, Any]:
    """The figures, with each long text that occurs several times as its place in `texts`.

    What a trial's point says is the same on every axis of the front, too far apart for gzip.
    """
    often = [value for value, count in Counter(_texts(drawn)).items() if count > 1]
    places = {value: place for place, value in enumerate(often)}

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return {"$text": places[value]} if value in places else value
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        return [replaced(item) for item in value] if isinstance(value, list) else value

    return {"figures": replaced(drawn), "texts": often}


def _texts(value: Any) -> Iterator[str]:
    """Every long text in a figure."""
    if isinstance(value, str) and len(value) >= _LONG:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
