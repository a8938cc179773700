"""Runs beside one another: their fronts at equal cost, and what differs in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.cost_fields import is_cost
from autoprune.errors import UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import text
from autoprune.report.data import RunView
from autoprune.report.markup import escape, flat

if TYPE_CHECKING:
    import pandas as pd

_LEVELS = 6  # costs at which fronts are compared
_LEAST_RANGE = 0.05  # of the costs, below which one level says it all
_WIDTH = 120  # of the text
_OWN = ("output", "base", "from_run")  # keys that differ in any case


@dataclass(frozen=True)
class Comparison:
    """Runs beside one another; `print` and notebooks show all of it.

    `views` are the runs in the order in which they were given. Columns of the tables are called by
    the runs' folders.
    """

    views: tuple[RunView, ...]

    def __post_init__(self) -> None:
        if len(self.views) < 2:
            raise UsageError("compare needs at least two runs")
        first, *others = self.views
        for view in self.views:
            if view.front is None or not view.members:
                raise UsageError(f"{view.name} has no front yet")
        for view in others:
            if _objectives(view) != _objectives(first):
                raise UsageError(
                    f"{view.name} has the objectives {_named(view)}, {first.name} has "
                    f"{_named(first)}: their fronts cannot be compared"
                )

    @property
    def fronts(self) -> list[ParetoFront]:
        """The front of each run."""
        return [view.front for view in self.views if view.front is not None]

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run: trials, epochs, time, front, and the recommended trial.

        `hypervolume_share` is relative to the largest, up to the worst reference point of all; NaN
        for runs of different tasks.
        """
        import pandas as pd

        shares = _volumes(self.views, self.fronts)
        rows = [
            _run(view, front, shares[place] if shares else None)
            for place, (view, front) in enumerate(zip(self.views, self.fronts, strict=True))
        ]
        return pd.DataFrame(rows, index=pd.Index([view.name for view in self.views], name="run"))

    @property
    def at_cost(self) -> pd.DataFrame:
        """The best metric of each run (columns) within several costs (rows).

        NaN where none is within; empty where the objectives have no metric or no cost.
        """
        import pandas as pd

        names, found = [view.name for view in self.views], levels(self.fronts)
        index = pd.Index([limit for limit, _ in found.rows], name=found.cost or None)
        values = [row for _, row in found.rows]
        return pd.DataFrame(values, index=index, columns=names, dtype=float)

    @property
    def differences(self) -> pd.DataFrame:
        """Keys of configurations and environments (rows) in which the runs (columns) differ."""
        import pandas as pd

        found = _differing(self.views)
        names = [view.name for view in self.views]
        index = pd.Index(list(found), name="key", dtype=object)
        return pd.DataFrame(list(found.values()), index=index, columns=names, dtype=object)

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [_runs(self.views, self.fronts)]
        parts += [Text(warning, "yellow") for warning in _warnings(self.views)]
        return Group(*parts, _levels(self.views, self.fronts), _differences(self.views))

    def __str__(self) -> str:
        out = io.StringIO()
        Console(file=out, width=_WIDTH, highlight=False, markup=False).print(self)
        return out.getvalue()

    def _repr_html_(self) -> str:
        """The three tables, for notebooks."""
        tables = (self.runs, self.at_cost, self.differences)
        parts = [f"<p>{escape(warning)}</p>" for warning in _warnings(self.views)]
        return "".join([*parts, *(table.to_html() for table in tables if len(table))])


@dataclass(frozen=True)
class Levels:
    """The best metric of each front within several costs; None where none is."""

    metric: Objective
    cost: str
    rows: tuple[tuple[float, tuple[float | None, ...]], ...]


def levels(fronts: Sequence[ParetoFront]) -> Levels:
    """At costs between the ends of all fronts, or at the highest where they are about the same.

    No rows without a metric and a cost.
    """
    objectives = fronts[0].objectives
    metric = next((o for o in objectives if not is_cost(o.name)), None)
    cost = next((o.name for o in objectives if is_cost(o.name)), None)
    if metric is None or cost is None:
        return Levels(objectives[0], "", ())
    spent = [v for f in fronts for r in f.members if (v := f.value(cost, r)) is not None]
    low, high = min(spent), max(spent)
    count = _LEVELS if high > low * (1.0 + _LEAST_RANGE) else 1
    limits = [high - (high - low) * k / (_LEVELS - 1) for k in reversed(range(count))]
    rows = [
        (limit, tuple(best_at(front, metric, cost, limit * (1 + 1e-9)) for front in fronts))
        for limit in limits
    ]
    return Levels(metric, cost, tuple(rows))


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


def _objectives(view: RunView) -> tuple[Objective, ...]:
    return view.front.objectives if view.front is not None else ()


def _named(view: RunView) -> str:
    return ", ".join(objective.name for objective in _objectives(view))


def _run(view: RunView, front: ParetoFront, share: float | None) -> dict[str, Any]:
    found, name = view.recommendation, view.metric.name if view.metric else "metric"
    return {
        "trials": sum(record.is_counted for record in view.records),
        "epochs": view.epochs,
        "wall_s": view.wall_s,
        "members": len(front),
        "hypervolume_share": share,
        "recommended": found.record.number if found else None,
        name: view.metric_of(found.record) if found else None,
    }


def _volumes(views: Sequence[RunView], fronts: Sequence[ParetoFront]) -> list[float]:
    """As `hypervolumes`; none of runs of different tasks, whose values are not comparable."""
    return hypervolumes(fronts) if len({_task(view) for view in views}) == 1 else []


def _runs(views: Sequence[RunView], fronts: Sequence[ParetoFront]) -> Table:
    table = _table("run", "trials", "epochs", "time", "front", "hypervolume", "recommended")
    volumes = _volumes(views, fronts)
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
    found = levels(fronts)
    if not found.rows:
        return Text("")
    name = found.metric.name
    table = _table(f"{name} at {text.label(found.cost)} of at most", *(v.name for v in views))
    for limit, values in found.rows:
        first, cells = values[0], []
        for place, value in enumerate(values):
            beside = ""
            if place and value is not None and first is not None:
                beside = f" ({text.change(name, value - first)})"
            cells.append(text.metric(name, value) + beside)
        table.add_row(text.cost(found.cost, limit), *cells)
    return table


def _differences(views: Sequence[RunView]) -> RenderableType:
    table = _table("differs in", *(view.name for view in views))
    for name, values in _differing(views).items():
        table.add_row(name, *(_shown(value) for value in values))
    return table if table.row_count else Text("same configuration and environment", "dim")


def _differing(views: Sequence[RunView]) -> dict[str, list[Any]]:
    """Keys of the configuration and of the environment in which the runs differ."""
    contents = [
        {**flat(view.config.to_dict()), **flat(view.environment, "environment.")} for view in views
    ]
    names = dict.fromkeys(name for content in contents for name in content)
    found = {name: [content.get(name) for content in contents] for name in names}
    return {
        name: values
        for name, values in found.items()
        if name not in _OWN and any(value != values[0] for value in values)
    }


def _warnings(views: Sequence[RunView]) -> Iterator[str]:
    """Why values of the runs may not be comparable: other tasks, or other dense models."""
    first, *others = views
    tasks = [f"{it.name} ({_task(it)})" for it in others if _task(it) != _task(first)]
    if tasks:
        yield (
            f"other tasks than that of {first.name} ({_task(first)}): {', '.join(tasks)}; values "
            "of different tasks are not comparable"
        )
    odd = [view.name for view in others if dict(view.dense.metrics) != dict(first.dense.metrics)]
    if odd:
        yield f"other dense models than that of {first.name}: {', '.join(odd)}"


def _task(view: RunView) -> str:
    """The task's name, without the folder of its file."""
    return view.config.task.rpartition("/")[2]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left")
    return table


def _shown(value: Any) -> str:
    return text.NONE if value is None or value == "" else str(value)
