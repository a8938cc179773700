"""The front plot: models against one cost, with dense, baselines, budget and what has no metric."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autoprune.budget import Cost
from autoprune.pareto import CostSource
from autoprune.record import TrialRecord
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.front_axes import MOST, axes, cost_of, scale_of
from autoprune.report.hover import hover
from autoprune.report.style import Figure, axis, colors, layout, level

_LABEL = 0.12  # of the width: nearer to the left edge a name on the left would cover the axis


def fronts(view: RunView) -> dict[str, Figure]:
    """The front against each cost axis for which some finished model has a value."""
    figures = {}
    for key, source, field, label in axes(view):
        priced = [r for r in view.records if cost_of(r, source, field) is not None]
        known = [r for r in priced if view.metric_of(r) is not None]
        if known and view.metric:
            figures[key] = {"label": label, **_front(view, source, field, label)}
    return figures


def _front(view: RunView, source: CostSource, field: str, label: str) -> Figure:
    scale, unit = scale_of(view, field)
    plot = _FrontPlot(view, source, field, scale, unit)
    traces = plot.traces()
    without = plot.without_value
    base = 0.17 if without else 0.0
    assert view.metric is not None
    better = "" if view.metric.direction == "maximize" else " (lower is better)"
    percent = ", %" if text.is_share(view.metric.name) else ""
    drawn = layout(
        height=460,
        xaxis=axis(f"{label}, {unit}", range=list(plot.x_range), anchor="y2" if without else "y"),
        yaxis=axis(
            f"validation {escape(view.metric.name)}{percent}{better}",
            domain=[base, 1],
            range=list(plot.y_range),
        ),
        shapes=plot.shapes(base),
        annotations=plot.notes(),
    )
    if without:
        drawn["yaxis2"] = {
            "domain": [0, 0.11],
            "fixedrange": True,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": without,
            "range": [-0.6, len(without) - 0.4],
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
            "tickfont": {"size": 11},
        }
    return {"data": traces, "layout": drawn, "legend": plot.legend()}


class _FrontPlot:
    """One front against one cost axis: its points, its ranges, what lies outside them."""

    def __init__(
        self, view: RunView, source: CostSource, field: str, scale: float, unit: str
    ) -> None:
        self.view, self.source, self.field = view, source, field
        self.scale, self.unit = scale, unit
        assert view.metric is not None
        self.name, self.sign = view.metric.name, view.metric.sign
        self.percent = 100.0 if text.is_share(self.name) else 1.0
        members = {record.number for record in view.members}
        shown = [r for r in (*view.records, *view.smaller) if self.x(r) is not None]
        rated = [r for r in shown if self.y(r) is not None]
        there = {r.number for r in rated}  # records compare slowly
        self.members = [r for r in view.members if r.number in there]
        self.uniform = [r for r in view.uniform if r.number in there]
        others = [r for r in view.baselines if r.number in there]
        self.random = [r for r in others if r.baseline in ("random", "scratch")]
        self.smaller = [r for r in others if r.baseline == "smaller"]
        taken = members | {r.number for r in (*self.uniform, *others)}
        complete = [r for r in rated if r.state == "complete" and r.number not in taken]
        self.finished = complete[-MOST:]
        self.stopped = [r for r in rated if r.state == "stopped"][-MOST:]
        self.failed = [r for r in shown if r.state == "failed"][-MOST:]
        self.infeasible = [r for r in shown if r.state == "infeasible"][-MOST:]
        self.dense = self._dense()
        self.bound = self._bound()
        self.y_range, self.x_range = self._y_range(), self._x_range()

    @property
    def without_value(self) -> list[str]:
        """The rows of the strip below: trials that have a cost and no metric."""
        rows = (("failed", self.failed), ("over budget", self.infeasible))
        return [name for name, records in rows if records]

    def x(self, record: TrialRecord) -> float | None:
        value = cost_of(record, self.source, self.field)
        return None if value is None else value / self.scale

    def y(self, record: TrialRecord) -> float | None:
        value = record.metrics.get(self.name)
        return None if value is None else value * self.percent

    def traces(self) -> list[Figure]:
        """From the back to the front."""
        groups = [
            self._cloud(self.infeasible, "over budget", "line-ns", "--faint-2", strip=True),
            self._cloud(self.failed, "failed", "x", "--bad", strip=True),
            self._cloud(self.stopped, "stopped", "circle-open", "--faint-2"),
            self._cloud(self.finished, "finished", "circle", "--faint-2"),
            self._uniform(),
            self._open("diamond-open", self.random, "random widths or weights"),
            self._open("diamond-tall-open", self.smaller, "smaller dense model"),
            self._stairs(),
            self._front_members(),
            self._dense_trace(),
        ]
        return [group for group in groups if group["x"]]

    def legend(self) -> list[str]:
        """The kinds of mark that this plot really shows, from the front to the back."""
        outside = any(self._outside(record) for record in (*self.finished, *self.stopped))
        shown = {
            "front": self.members,
            "dense": self.dense,
            "uniform": self.uniform,
            "random": self.random,
            "smaller": self.smaller,
            "finished": self.finished,
            "stopped": self.stopped,
            "failed": self.failed,
            "infeasible": self.infeasible,
            "outside": outside,
            "budget": self.bound is not None and self.bound < self.x_range[1],
        }
        return [name for name, any_shown in shown.items() if any_shown]

    def shapes(self, base: float) -> list[Figure]:
        """The budget's limit with what lies beyond it, and the dense model's level."""
        shapes = []
        if self.bound is not None and self.bound < self.x_range[1]:
            span = {"yref": "paper", "y0": 0, "y1": 1, "layer": "below", "x0": self.bound}
            end = {"x1": self.x_range[1], "fillcolor": "--bad-wash", "line": {"width": 0}}
            dash = {"color": "--bad", "width": 1.5, "dash": "dash"}
            shapes += [{"type": "rect", **span, **end}]
            shapes += [{"type": "line", **span, "x1": self.bound, "line": dash}]
        if self.dense is not None:
            shapes.append(level(self.dense[1]))
        if base:
            edge = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "paper"}
            shapes.append(edge | {"y0": 0.14, "y1": 0.14, "line": {"color": "--line", "width": 1}})
        return shapes

    def notes(self) -> list[Figure]:
        """Names beside the budget's line, the recommended model and the knee."""
        notes = []
        if self.bound is not None and self.bound < self.x_range[1]:
            value = text.three_digits(self.bound)
            notes.append(
                {"x": self.bound, "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "left"}
                | {"text": f"budget {value} {self.unit}", "showarrow": False, "xshift": 4}
                | {"font": {"color": "--bad", "size": 11}}
            )
        picks: dict[int, tuple[TrialRecord, list[str]]] = {}
        found, front = self.view.recommendation, self.view.front
        named = (
            ("recommended", found.record if found else None),
            ("knee", front.knee if front else None),
        )
        for word, record in named:
            if record is not None and record in self.members:
                picks.setdefault(record.number, (record, []))[1].append(word)
        start, end = self.x_range
        edge = start + _LABEL * (end - start)
        for place, (record, words) in enumerate(picks.values()):
            is_left = place > 0 and (self.x(record) or 0.0) > edge
            notes.append(
                {"x": self.x(record), "y": self.y(record), "text": ", ".join(words)}
                | {"ax": -30 if is_left else 34, "ay": -28 if is_left else 30}
                | {"xanchor": "right" if is_left else "left", "bgcolor": "--page"}
                | {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": "--ink-2"}
                | {"standoff": 8, "font": {"color": "--ink", "size": 12}}
            )
        return notes

    def _dense(self) -> tuple[float, float] | None:
        cost: Cost | None = getattr(self.view.dense, self.source)
        value = cost.value(self.field) if cost else None
        metric = self.view.dense.metrics.get(self.name)
        return (
            None if value is None or metric is None else (value / self.scale, metric * self.percent)
        )

    def _bound(self) -> float | None:
        limits = [limit for limit, _ in self.view.limits if limit.field == self.field]
        bounds = [self.view.bound(limit, self.source) for limit in limits]
        found = [bound / self.scale for bound in bounds if bound is not None]
        return min(found, default=None)

    def _y_range(self) -> tuple[float, float]:
        """Members, baselines and dense with room; others may lie outside and are pinned there."""
        core = [
            y
            for r in (*self.members, *self.uniform, *self.random, *self.smaller)
            if (y := self.y(r)) is not None
        ]
        core += [self.dense[1]] if self.dense else []
        every = [y for r in (*self.finished, *self.stopped) if (y := self.y(r)) is not None]
        core = core or every
        room = max(max(core) - min(core), 1e-3 * abs(max(core)), 1e-9)
        best, worst = (max, min) if self.sign < 0 else (min, max)
        reach = worst(core) + self.sign * 0.5 * room
        low = best(reach, worst([*core, *every])) + self.sign * 0.08 * room
        high = best([*core, *every]) - self.sign * 0.1 * room
        return min(low, high), max(low, high)

    def _x_range(self) -> tuple[float, float]:
        groups = (self.members, self.uniform, self.random, self.smaller, self.finished)
        others = (self.stopped, self.failed)
        values = [x for group in (*groups, *others) for r in group if (x := self.x(r)) is not None]
        values += [x for r in self.infeasible if (x := self.x(r)) is not None]
        values += [self.dense[0]] if self.dense else []
        return 0.0, 1.06 * max(values)

    def _cloud(
        self,
        records: Sequence[TrialRecord],
        name: str,
        symbol: str,
        color: str,
        *,
        strip: bool = False,
    ) -> Figure:
        pinned = [not strip and self._outside(record) for record in records]
        beyond = "triangle-down" if self.sign < 0 else "triangle-up"
        trace = self._points(records, name) | {
            "marker": {
                "size": [9 if out else 7 for out in pinned],
                "symbol": [beyond if out else symbol for out in pinned],
                "color": color,
                "line": {"width": 1.5, "color": color},
            }
        }
        if strip:
            trace |= {"y": [name] * len(records), "yaxis": "y2"}
        return trace

    def _uniform(self) -> Figure:
        ordered = sorted(self.uniform, key=lambda record: self.x(record) or 0.0)
        line = {"color": "--baseline", "width": 1.5, "dash": "dot"}
        on_front = [record in self.members for record in ordered]
        marker = {  # a ring around those that are on the front themselves
            "symbol": ["square-open" if on else "square" for on in on_front],
            "size": [20 if on else 9 for on in on_front],
            "color": "--baseline",
        }
        points = self._points(ordered, "uniform pruning")
        return points | {"mode": "lines+markers", "line": line, "marker": marker}

    def _open(self, symbol: str, records: Sequence[TrialRecord], name: str) -> Figure:
        marker = {"symbol": symbol, "size": 10, "color": "--baseline"}
        return self._points(records, name) | {"marker": marker}

    def _stairs(self) -> Figure:
        """The members that nobody dominates on this axis, as the stairs of what is reachable."""
        steps: list[tuple[float, float]] = []
        for record in sorted(self.members, key=lambda r: (self.x(r), self.sign * (self.y(r) or 0))):
            x, y = self.x(record), self.y(record)
            assert x is not None
            assert y is not None
            if not steps or self.sign * y < self.sign * steps[-1][1]:
                steps.append((x, y))
        line = {"color": "--accent", "width": 2, "shape": "hv"}
        xy = {"x": [x for x, _ in steps], "y": [y for _, y in steps]}
        return xy | {"mode": "lines", "line": line, "hoverinfo": "skip"}

    def _front_members(self) -> Figure:
        shades = dict(
            zip([r.number for r in self.view.members], colors(len(self.view.members)), strict=True)
        )
        marker = {
            "size": 13,
            "color": [shades[r.number] for r in self.members],
            "line": {"color": "--page", "width": 2},
        }
        return self._points(self.members, "front") | {"marker": marker}

    def _dense_trace(self) -> Figure:
        x, y = ([self.dense[0]], [self.dense[1]]) if self.dense else ([], [])
        marker = {"symbol": "diamond", "size": 14, "color": "--ink"}
        hover = "<b>dense model</b><br>%{y:.4g}<br>%{x:.3g} " + self.unit + "<extra></extra>"
        words = {"mode": "markers+text", "text": ["dense"], "textposition": "bottom center"}
        return {"x": x, "y": y, "marker": marker, "hovertemplate": hover, "name": "dense", **words}

    def _points(self, records: Sequence[TrialRecord], name: str) -> Figure:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [self.x(record) for record in records],
            "y": [self._pinned(record) for record in records],
            "text": [hover(self.view, record) for record in records],
            "hovertemplate": "%{text}<extra></extra>",
            "cliponaxis": False,
        }

    def _outside(self, record: TrialRecord) -> bool:
        y = self.y(record)
        return y is not None and not self.y_range[0] <= y <= self.y_range[1]

    def _pinned(self, record: TrialRecord) -> float | None:
        y = self.y(record)
        if y is None:
            return None
        margin = 0.02 * (self.y_range[1] - self.y_range[0])
        return min(max(y, self.y_range[0] + margin), self.y_range[1] - margin)
