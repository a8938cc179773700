"""All fronts as one picture: members as dots, the mean over seeds as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoprune.errors import UsageError
from autoprune.report.formats import draw
from autoprune.report.html import document
from scripts.benchmarks.search.setup import LEVELS, MOST
from scripts.benchmarks.search.table import SEARCHES, Table, at_most

COLOURS = {  # Okabe and Ito's; variants of a method are in the table alone
    "autoprune": "#0072B2",
    "autoprune_ratios": "#56B4E9",
    "global_l2": "#8a8a8a",
    "fastnas": "#D55E00",
    "modelopt": "#E69F00",
    "uniform": "#CC79A7",
    "uniform_repaired": "#000000",
    "ray_optuna": "#009E73",
}
_MANY = "ray_optuna x"  # with so many times the compute: dashed
_GRID = np.linspace(0.05, 1.0, 96)
_PANEL = 460  # pixels


def write(table: Table, page: Path, picture: Path) -> str:
    """Draw the figure as PNG where there is a browser, else write it as HTML; says which."""
    figure = draw_figure(table)
    width = figure["layout"]["width"] + 80
    place = f'<div data-figure="fronts" style="width: {width - 80}px"></div>'
    words = document("fronts", {"fronts": figure}, [place])
    try:
        picture.write_bytes(draw(words, (width, figure["layout"]["height"] + 60)))
    except UsageError as error:
        page.write_text(words, encoding="utf-8")
        return f"{page} ({error})"
    return str(picture)


def draw_figure(table: Table) -> dict[str, Any]:
    """One panel a task, cost against test accuracy."""
    tasks = list(table.data.task.unique())
    many = sorted({name for name in table.data.method if name.startswith(_MANY)})
    methods = [name for name in (*COLOURS, *many) if name in set(table.data.method)]
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "width": _PANEL * len(tasks),
        "height": 480,
        "font": {},
        "legend": {"orientation": "h", "y": -0.22},
        "margin": {"t": 40, "r": 20},
        "annotations": [],
        "shapes": [],
    }
    shown: set[str] = set()
    for place, task in enumerate(tasks):
        axis = "" if place == 0 else str(place + 1)
        for method in methods:
            trials = table.of(task, method)
            if not trials.empty:
                traces += _traces(method, trials, axis, legend=method not in shown)
                shown.add(method)
        _panel(layout, table.of(task), axis, place / len(tasks), 1.0 / len(tasks))
    return {"data": traces, "layout": layout}


def _traces(method: str, trials: pd.DataFrame, axis: str, *, legend: bool) -> list[dict[str, Any]]:
    """Members of all seeds' fronts as dots, and the mean reached as a line."""
    colour, members = COLOURS[method.partition(" ")[0]], trials[trials.front]
    common = {"name": method, "legendgroup": method, "xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    line = {"color": colour, "shape": "hv", "width": 3.5 if method in SEARCHES else 1.5}
    return [
        {
            **common,
            "x": members.macs_share.tolist(),
            "y": members.test_accuracy.tolist(),
            "mode": "markers",
            "marker": {"color": colour, "size": 5, "opacity": 0.45},
            "showlegend": False,
        },
        {
            **common,
            "x": _GRID.tolist(),
            "y": reached(trials),
            "mode": "lines",
            "line": {**line, "dash": "dash" if method.startswith(_MANY) else "solid"},
            "showlegend": legend,
        },
    ]


def reached(trials: pd.DataFrame) -> list[float]:
    """At each cost of the grid the mean over seeds of the test accuracy within it; NaN below."""
    runs = [own for _, own in trials.groupby("seed")]
    found = []
    for level in _GRID:
        best = [at_most(own, float(level)) for own in runs]
        complete = all(row is not None for row in best)
        known = [float(row.test_accuracy) for row in best if row is not None]
        found.append(float(np.mean(known)) if complete else float("nan"))
    return found


def _panel(
    layout: dict[str, Any], trials: pd.DataFrame, axis: str, left: float, width: float
) -> None:
    """Axes, title and the dense model's accuracy of one panel."""
    dense = float(trials.iloc[0].dense_test)
    floor = max(0.5, float(trials[trials.front].test_accuracy.min())) - 0.02
    domain = [left + 0.06 * width, left + 0.97 * width]
    layout[f"xaxis{axis}"] = {
        "title": {"text": "MACs, share of the dense model"},
        "domain": domain,
        "tickformat": ".0%",
        "range": [0.0, MOST + 0.05],
        "tickvals": [0.1, *sorted(LEVELS)],
    }
    title = {"text": "test accuracy (dotted: dense)"} if axis == "" else {}
    layout[f"yaxis{axis}"] = {
        "title": title,
        "anchor": f"x{axis}",
        "tickformat": ".0%",
        "range": [floor, dense + 0.01],
    }
    line = {"type": "line", "line": {"dash": "dot", "color": "#888", "width": 1}}
    ends = {"x0": 0, "x1": 1, "y0": dense, "y1": dense}
    layout["shapes"].append({**line, **ends, "xref": f"x{axis} domain", "yref": f"y{axis}"})
    place = {"x": sum(domain) / 2, "xref": "paper", "y": 1.06, "yref": "paper"}
    layout["annotations"].append({**place, "text": str(trials.iloc[0].task), "showarrow": False})
