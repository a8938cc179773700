"""All fronts as one picture: members as dots, the mean over seeds as lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plot_front import BROWSERS, draw
from plotly.subplots import make_subplots

from bench_search.setup import LEVELS, MOST
from bench_search.table import Table, at_most

COLOURS = {  # Okabe and Ito's; variants of a method are in the table alone
    "autoprune": "#0072B2",
    "global_l2": "#8a8a8a",
    "fastnas": "#D55E00",
    "modelopt": "#E69F00",
    "uniform": "#CC79A7",
    "ray_optuna": "#009E73",
}
_MANY = "ray_optuna x"  # with so many times the compute: dashed
_GRID = np.linspace(0.05, 1.0, 96)


def write(table: Table, page: Path, picture: Path) -> str:
    """Write the figure as HTML and, where there is a browser, as PNG; says what was written."""
    figure = draw_figure(table)
    words = figure.to_html(include_plotlyjs=True, config={"displayModeBar": False})
    page.write_text(words, encoding="utf-8")
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        return f"{page} (a PNG needs one of {', '.join(BROWSERS)})"
    width, height = figure.layout.width, figure.layout.height
    draw(browser, page.read_text(encoding="utf-8"), picture, (width + 16, height + 16))
    page.unlink()
    return str(picture)


def draw_figure(table: Table) -> go.Figure:
    """One panel a task, cost against test accuracy."""
    tasks = list(table.data.task.unique())
    many = sorted({name for name in table.data.method if name.startswith(_MANY)})
    methods = [name for name in (*COLOURS, *many) if name in set(table.data.method)]
    shown: set[str] = set()
    figure = make_subplots(1, len(tasks), subplot_titles=tasks, horizontal_spacing=0.08)
    for column, task in enumerate(tasks, start=1):
        for method in methods:
            trials = table.of(task, method)
            if trials.empty:
                continue
            colour = COLOURS[method.partition(" ")[0]]
            ours = method == "autoprune"
            members = trials[trials.front]
            common = {"legendgroup": method, "name": method}
            dots = go.Scatter(
                x=members.macs_share,
                y=members.test_accuracy,
                mode="markers",
                marker={"color": colour, "size": 5, "opacity": 0.45},
                showlegend=False,
                **common,
            )
            line = go.Scatter(
                x=_GRID,
                y=reached(trials),
                mode="lines",
                line={
                    "color": colour,
                    "width": 3.5 if ours else 1.5,
                    "shape": "hv",
                    "dash": "dash" if method in many else "solid",
                },
                showlegend=method not in shown,
                **common,
            )
            shown.add(method)
            figure.add_trace(dots, 1, column)
            figure.add_trace(line, 1, column)
        _axes(figure, table.of(task), column)
    figure.update_layout(
        template="plotly_white",
        width=80 + 460 * len(tasks),
        height=480,
        legend={"orientation": "h", "y": -0.22},
        margin={"t": 40, "r": 20},
    )
    return figure


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


def _axes(figure: go.Figure, trials: pd.DataFrame, column: int) -> None:
    dense = float(trials.iloc[0].dense_test)
    figure.add_hline(y=dense, line={"dash": "dot", "color": "#888", "width": 1}, col=column, row=1)
    low = float(trials[trials.front].test_accuracy.min())
    figure.update_xaxes(
        title="MACs, share of the dense model",
        tickformat=".0%",
        range=[0.0, MOST + 0.05],
        tickvals=[0.1, *sorted(LEVELS)],
        col=column,
    )
    floor = max(0.5, low) - 0.02
    figure.update_yaxes(tickformat=".0%", range=[floor, dense + 0.01], col=column)
    if column == 1:
        figure.update_yaxes(title="test accuracy (dotted: dense)", col=1)
