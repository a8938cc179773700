"""Runs beside one another: their fronts at equal cost, and what differs in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.cost_fields import is_cost
from autoprune.errors import UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import flat

_LEVELS = 6  # costs at which fronts are compared
_OWN = ("output", "base", "from_run")  # keys that differ in any case


def compare(views: Sequence[RunView]) -> RenderableType:
    """Tables of the runs, of their fronts at equal cost, and of what differs in configurations.

    Raises UsageError for fewer than two runs, without a front, or with other objectives.
    """
    if len(views) < 2:
        raise UsageError("compare needs at least two runs")
    fronts = [_front(view) for view in views]
    objectives = fronts[0].objectives
    for view, front in zip(views, fronts, strict=True):
        if front.objectives != objectives:
            names = ", ".join(o.name for o in front.objectives)
            raise UsageError(
                f"{view.name} has the objectives {names}, {views[0].name} has "
                f"{', '.join(o.name for o in objectives)}: their fronts cannot be compared"
            )
    warning = _other_dense(views)
    parts: list[RenderableType] = [_runs(views, fronts)]
    parts += [Text(warning, "yellow")] if warning else []
    return Group(*parts, _levels(views, fronts), _differences(views))


def hypervolumes(fronts: Sequence[ParetoFront]) -> list[float]:
    """Of each front up to the worst reference of all, as a share of the largest."""
    references = [front.reference for front in fronts if front.reference is not None]
    if len(references) < len(fronts):
        return []
    worst = tuple(
        max(values, key=lambda value, o=o: o.sign * value)  # type: ignore[misc]
        for o, values in zip(fronts[0].objectives, zip(*references, strict=True), strict=True)
    )
    volumes = [
        ParetoFront(
            front.objectives, front.members, worst, front.source, front.predicted_only
        ).hypervolume
        for front in fronts
    ]
    most = max(volumes) or 1.0
    return [volume / most for volume in volumes]


def best_at(front: ParetoFront, metric: Objective, cost: str, limit: float) -> float | None:
    """The best metric of the members that cost at most `limit`; None where none does."""
    values = [
        value
        for record in front.members
        if (spent := front.value(cost, record)) is not None
        and spent <= limit
        and (value := metric.value(record)) is not None
    ]
    return min(values, key=lambda value: metric.sign * value) if values else None


def _front(view: RunView) -> ParetoFront:
    if view.front is None or not view.members:
        raise UsageError(f"{view.name} has no front yet")
    return view.front


def _runs(views: Sequence[RunView], fronts: Sequence[ParetoFront]) -> Table:
    table = _table("run", "trials", "epochs", "time", "front", "hypervolume", "recommended")
    volumes = hypervolumes(fronts)
    for place, (view, front) in enumerate(zip(views, fronts, strict=True)):
        found, name = view.recommendation, view.metric.name if view.metric else ""
        chosen = (
            f"{found.record.number}: {text.metric(name, view.metric_of(found.record))}"
            if found
            else text.NONE
        )
        table.add_row(
            view.name,
            str(sum(r.is_counted and r.state != "infeasible" for r in view.records)),
            f"{view.epochs:.4g}",
            text.seconds(view.wall_s),
            str(len(front)),
            f"{100 * volumes[place]:.1f} %" if volumes else text.NONE,
            chosen,
        )
    return table


def _levels(views: Sequence[RunView], fronts: Sequence[ParetoFront]) -> RenderableType:
    """The best metric of each run at several costs, and its difference to the first."""
    objectives = fronts[0].objectives
    metric = next((o for o in objectives if not is_cost(o.name)), None)
    cost = next((o.name for o in objectives if is_cost(o.name)), None)
    if metric is None or cost is None:
        return Text("")
    spent = [v for f in fronts for r in f.members if (v := f.value(cost, r)) is not None]
    low, high = min(spent), max(spent)
    limits = [low + (high - low) * k / (_LEVELS - 1) for k in range(_LEVELS)]
    table = _table(f"{metric.name} at {text.label(cost)} of at most", *(v.name for v in views))
    for limit in limits:
        values = [best_at(front, metric, cost, limit * (1 + 1e-9)) for front in fronts]
        first, cells = values[0], []
        for place, value in enumerate(values):
            beside = ""
            if place and value is not None and first is not None:
                beside = f" ({text.change(metric.name, value - first)})"
            cells.append(text.metric(metric.name, value) + beside)
        table.add_row(text.cost(cost, limit), *cells)
    return table


def _differences(views: Sequence[RunView]) -> RenderableType:
    """Keys of the configuration and of the environment in which the runs differ."""
    contents = [
        {**flat(view.config.to_dict()), **flat(view.environment, "environment.")} for view in views
    ]
    names = dict.fromkeys(name for content in contents for name in content)
    table = _table("differs in", *(view.name for view in views))
    for name in names:
        values = [content.get(name) for content in contents]
        if name not in _OWN and any(value != values[0] for value in values):
            table.add_row(name, *(_shown(value) for value in values))
    return table if table.row_count else Text("same configuration and environment", "dim")


def _other_dense(views: Sequence[RunView]) -> str:
    first, *others = views
    odd = [view.name for view in others if dict(view.dense.metrics) != dict(first.dense.metrics)]
    if not odd:
        return ""
    return f"other dense models than that of {first.name}: {', '.join(odd)}"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left")
    return table


def _shown(value: Any) -> str:
    return text.NONE if value is None or value == "" else str(value)
