"""Pareto analysis: dominance, ranks, crowding, hypervolume, and the front of a run.

The functions are minimize-only NumPy; directions are turned once, in `ParetoFront`. They refuse
NaN, and equal points never dominate one another.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoprune.cost_fields import cost_fields, is_cost, is_latency, on_device, split_field
from autoprune.errors import BudgetError
from autoprune.html_table import html_table
from autoprune.record import TrialRecord

Direction = Literal["maximize", "minimize"]
CostSource = Literal["predicted", "measured"]
Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ranks = npt.NDArray[np.int64]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether `first` is nowhere worse (larger) than `second` and somewhere better.

    >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2)), dominates((0, 9), (9, 0))
    (True, False, False)
    """
    a, b = _points([first, second])
    return bool(np.all(a <= b) and np.any(a < b))


def non_dominated(points: npt.ArrayLike) -> Mask:
    """`(n,)` mask of the rows of `(n, k)` points that no other row dominates.

    Equal rows are kept or lost together. No point gives an empty mask; NaN raises ValueError.

    >>> non_dominated([[1, 4], [2, 2], [3, 3], [2, 2]]).tolist()
    [True, True, False, True]
    """
    rows = _points(points)
    keep = np.ones(len(rows), dtype=bool)
    for row in range(len(rows)):
        if keep[row]:
            worse = np.all(rows >= rows[row], axis=1) & np.any(rows > rows[row], axis=1)
            keep &= ~worse
    return keep


def non_dominated_rank(points: npt.ArrayLike) -> Ranks:
    """`(n,)` ranks: 0 for the front, 1 for the front of what remains without it, and so on.

    Non-dominated sorting (Deb et al. 2002, NSGA-II). Equal rows share a rank.

    >>> non_dominated_rank([[1, 4], [2, 2], [3, 3], [4, 4]]).tolist()
    [0, 0, 1, 2]
    """
    rows = _points(points)
    ranks = np.full(len(rows), -1, dtype=np.int64)
    left, rank = np.arange(len(rows)), 0
    while len(left):
        front = non_dominated(rows[left])
        ranks[left[front]] = rank
        left, rank = left[~front], rank + 1
    return ranks


def crowding(points: npt.ArrayLike) -> Array:
    """`(n,)` crowding distances of the rows of one front: large where neighbors are far.

    Per objective the gap between a point's two neighbors, over the objective's range, summed; the
    two ends are infinite (Deb et al. 2002). Equal rows count once and share their distance, so the
    answer does not depend on the order of the rows. An objective that never varies adds nothing.

    >>> crowding([[0, 4], [1, 2], [4, 0]]).tolist()
    [inf, 2.0, inf]
    """
    rows = _points(points)
    unique, place = np.unique(rows, axis=0, return_inverse=True)
    distance = np.zeros(len(unique))
    for column in unique.T:
        order = np.argsort(column, kind="stable")
        span = float(np.ptp(column)) if len(column) else 0.0
        if span > 0.0:
            gaps = column[order[2:]] - column[order[:-2]]
            distance[order[1:-1]] += gaps / span
            distance[order[[0, -1]]] = np.inf
    if len(unique) == 1:
        distance[:] = np.inf
    return distance[place.reshape(-1)]


def hypervolume(points: npt.ArrayLike, reference: Sequence[float]) -> float:
    """The exact volume between `(n, k)` points and the reference that some point dominates.

    Minimise-only: points that are not better than the reference in every objective add nothing.
    Two objectives are swept in O(n log n); more are split into exclusive volumes (While, Bradstreet
    & Barone 2012, WFG). Raises ValueError for NaN or a reference of another length.

    >>> hypervolume([[1, 3], [2, 1]], (4, 4))
    7.0
    """
    rows = _points(points)
    corner = _points([reference])[0]
    if len(rows) and rows.shape[1] != len(corner):
        raise ValueError(
            f"reference must have one value for each of {rows.shape[1]} objectives, "
            f"got {len(corner)}"
        )
    rows = rows[np.all(rows < corner, axis=1)] if len(rows) else rows
    return _volume(rows, corner)


def knee(points: npt.ArrayLike) -> int:
    """The row of a front that lies farthest from the plane through the ends of the front.

    Each objective is scaled to [0, 1] over the rows; with two objectives the plane is the chord
    between the two ends, and in general it is the plane of equal sums: so the knee has the smallest
    sum of scaled objectives (Das 1999, "On characterizing the knee of the Pareto curve"). Ties go
    to the row that is better in the first objective, then in the next, then to the first row.

    >>> knee([[0, 10], [1, 2], [10, 0]])
    1
    """
    rows = _points(points)
    if not len(rows):
        raise ValueError("knee needs at least one point, got none")
    span = np.ptp(rows, axis=0)
    scaled = (rows - rows.min(axis=0)) / np.where(span > 0.0, span, 1.0)
    sums = np.round(scaled.sum(axis=1), 12)  # so that rounding does not decide a tie
    return int(np.lexsort((*rows.T[::-1], sums))[0])


@dataclass(frozen=True, slots=True)
class Objective:
    """A name, which is a metric or a cost, and the direction in which it is better."""

    name: str
    direction: Direction = "minimize"

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(
                f"objective {self.name!r}: direction must be maximize or minimize, "
                f"got {self.direction!r}"
            )

    @property
    def sign(self) -> float:
        """What turns a value into one to minimize: -1 or 1."""
        return -1.0 if self.direction == "maximize" else 1.0

    def rank(self, record: TrialRecord) -> float:
        """The predicted value as one to minimize; infinite where it was not determined."""
        value = self.value(record)
        return math.inf if value is None else self.sign * value

    def value(self, record: TrialRecord, source: CostSource = "predicted") -> float | None:
        """This objective of a record in its own unit; None where it was not determined.

        Latencies are read from `source` only: predicted and measured never mix. The exact counts
        (params, macs, bytes) are the same in both and come from whichever has them.
        """
        if not is_cost(self.name):
            return record.metrics.get(self.name)
        costs = [getattr(record, source)]
        if not is_latency(self.name):
            costs += [record.predicted, record.measured]
        values = (cost.value(self.name) for cost in costs if cost is not None)
        return next((float(value) for value in values if value is not None), None)

    def to_dict(self) -> dict[str, str]:
        """A JSON-ready form; `Objective(**d)` reads it back."""
        return {"name": self.name, "direction": self.direction}


@dataclass(frozen=True)
class ParetoFront:
    """The finished records that no other finished record dominates.

    Only `complete` records in which every objective is determined take part, and none that began
    from random weights; of records with equal values the lowest number stays. `members` are ordered
    by rising cost (the first objective that is a cost, otherwise the last one). `reference` is the
    worst point that still counts for the hypervolume, in the objectives' own units and order.
    `source` says which latency is meant; on the named devices in `predicted_only`, which could not
    be measured, it is the predicted one. NaN raises ValueError.
    """

    objectives: tuple[Objective, ...]
    records: tuple[TrialRecord, ...] = field(repr=False)
    reference: tuple[float, ...] | None = None
    source: CostSource = "predicted"
    predicted_only: tuple[str, ...] = ()
    members: tuple[TrialRecord, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ValueError("a front needs at least one objective, got none")
        if self.reference is not None and len(self.reference) != len(self.objectives):
            raise ValueError(
                f"reference must have {len(self.objectives)} values "
                f"({', '.join(o.name for o in self.objectives)}), got {len(self.reference)}"
            )
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "records", tuple(self.records))
        object.__setattr__(self, "members", self._members())

    @property
    def fields(self) -> tuple[str, ...]:
        """The objectives that are costs."""
        return tuple(o.name for o in self.objectives if is_cost(o.name))

    @property
    def values(self) -> Array:
        """`(members, objectives)` values in their own units, in the order of `members`."""
        return self._values(self.members)

    @property
    def hypervolume(self) -> float:
        """The volume that the members dominate, in the product of the objectives' units."""
        if self.reference is None:
            raise ValueError("hypervolume needs a reference point, this front has none")
        return hypervolume(self.values * self._signs, tuple(self.reference * self._signs))

    @property
    def knee(self) -> TrialRecord | None:
        """The member with the best trade between the objectives (see `knee`); None when empty."""
        return self.members[knee(self.values * self._signs)] if self.members else None

    def best(self, name: str | None = None) -> TrialRecord | None:
        """The member that is best in the named objective (default: the first); None when empty."""
        names = [objective.name for objective in self.objectives]
        column = names.index(_known(name, names)) if name is not None else 0
        if not self.members:
            return None
        return self.members[int(np.argmin(self.values[:, column] * self._signs[column]))]

    def source_of(self, name: str) -> CostSource:
        """Which latency is meant where an objective or a limit has this name."""
        return "predicted" if split_field(name)[1] in self.predicted_only else self.source

    def value(self, name: str, record: TrialRecord) -> float | None:
        """A record's cost or metric as this front knows it; None where it was not determined."""
        return Objective(name).value(record, self.source_of(name))

    @property
    def devices(self) -> tuple[str, ...]:
        """The named devices that the records' latencies are of; empty where none has a name."""
        costs = (cost for r in self.records for cost in (r.predicted, r.measured) if cost)
        return tuple(dict.fromkeys(name for cost in costs for name in cost.names))

    def at_most(self, **limits: float) -> ParetoFront:
        """The front of the records whose costs stay within the limits, e.g. `latency_ms=3`.

        Limits are costs or minimized objectives, in their own units, and inclusive; a latency
        without a device is that of the only one. A record in which a limited cost is not determined
        is left out. Raises BudgetError for an unknown name.
        """
        minimized = [o.name for o in self.objectives if o.direction == "minimize"]
        known = list(dict.fromkeys([*cost_fields(self.devices), *minimized]))
        names = {name: on_device(name, self.devices, "limit") for name in limits}
        asked = {_known(names[name], known): limit for name, limit in limits.items()}

        def within(record: TrialRecord) -> bool:
            values = ((self.value(cost, record), limit) for cost, limit in asked.items())
            return all(value is not None and value <= limit for value, limit in values)

        kept = tuple(record for record in self.records if within(record))
        return replace(self, records=kept)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; the members by their numbers, which the run's records hold."""
        best = self.knee
        return {
            "objectives": [objective.to_dict() for objective in self.objectives],
            "reference": list(self.reference) if self.reference is not None else None,
            "source": self.source,
            **({"predicted_only": list(self.predicted_only)} if self.predicted_only else {}),
            "hypervolume": self.hypervolume if self.reference is not None else None,
            "knee": best.number if best else None,
            "members": [
                {"number": record.number, "values": row}
                for record, row in zip(self.members, self.values.tolist(), strict=True)
            ],
        }

    def table_html(self, head: str, names: Sequence[str]) -> str:
        """The values of the members as an HTML table, each under its name; the knee is marked."""
        knee, columns = self.knee, [objective.name for objective in self.objectives]
        marked = [
            f"{name} (knee)" if record is knee else name
            for name, record in zip(names, self.members, strict=True)
        ]
        titles = [f"{c}, {self.source_of(c)}" if is_latency(c) else c for c in columns]
        rows = ([n, *values] for n, values in zip(marked, self.values.tolist(), strict=True))
        return html_table(f"{len(self)} models on the front", [head, *titles], rows)

    def _repr_html_(self) -> str:
        """A table of the members by the numbers of their trials, for notebooks."""
        return self.table_html("trial", [str(record.number) for record in self.members])

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self.members)

    @property
    def _signs(self) -> Array:
        return np.array([objective.sign for objective in self.objectives])

    def _values(self, records: Sequence[TrialRecord]) -> Array:
        rows = [[self.value(o.name, record) for o in self.objectives] for record in records]
        return np.array(rows, dtype=np.float64).reshape(len(records), len(self.objectives))

    def _members(self) -> tuple[TrialRecord, ...]:
        whole = [
            record
            for record in self.records
            if record.state == "complete"
            and record.baseline != "scratch"
            and all(self.value(o.name, record) is not None for o in self.objectives)
        ]
        values = self._values(whole) * self._signs
        names = [objective.name for objective in self.objectives]
        cost = next((i for i, name in enumerate(names) if is_cost(name)), len(names) - 1)
        first: dict[tuple[float, ...], TrialRecord] = {}
        for index in np.flatnonzero(non_dominated(values)):
            key = tuple(values[index].tolist())
            if key not in first or whole[index].number < first[key].number:
                first[key] = whole[index]
        order = sorted(first, key=lambda key: (key[cost], key))
        return tuple(first[key] for key in order)


def _points(points: npt.ArrayLike) -> Array:
    rows = np.asarray(points, dtype=np.float64)
    if rows.size == 0:
        rows = rows.reshape(len(rows), -1) if len(rows) else np.empty((0, 1))
    if rows.ndim != 2:
        raise ValueError(f"points must have shape (n, k), got {rows.shape}")
    if np.isnan(rows).any():
        raise ValueError(f"points must not hold NaN, got {int(np.isnan(rows).sum())} of them")
    return rows


def _volume(rows: Array, corner: Array) -> float:
    """Hypervolume of rows that are all strictly better than the corner."""
    if not len(rows):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - rows.min())
    rows = np.unique(rows[non_dominated(rows)], axis=0)
    if len(corner) == 2:
        right = np.append(rows[1:, 0], corner[0])
        return float(np.sum((right - rows[:, 0]) * (corner[1] - rows[:, 1])))
    total = 0.0
    for index, row in enumerate(rows):
        shadow = np.maximum(rows[index + 1 :], row)  # what later rows cover of this one's box
        total += float(np.prod(corner - row)) - _volume(shadow, corner)
    return total


def _known(name: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" · did you mean {near[0]}?" if near else ""
    raise BudgetError(f"{name!r} is none of {', '.join(names)}{hint}")
