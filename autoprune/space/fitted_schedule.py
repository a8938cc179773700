"""The schedules of a search space: sampled values become schedules, and schedules values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from autoprune.schedule import ONE_SHOT, TASK, Schedule
from autoprune.space.search_space import SearchSpace
from autoprune.space.settings import Parameter, Value

_KIND, _BEGIN, _END, _STEPS = (f"schedule.{key}" for key in ("kind", "begin", "end", "steps"))


def schedule_of(space: SearchSpace, values: Mapping[str, Value]) -> Schedule:
    """The schedule of sampled values; those that remove all at once, and then, are equal.

    An end before the beginning is moved to it. A removal of one step has no curve: it gets the
    first kind of the space that can remove at that time, `one_shot` before others. The kind `task`
    follows the space's `curve`. Raises ValueError where that does not rise to 1.

    >>> space = SearchSpace.parse({"schedule": {"kind": ["linear", "cubic"], "steps": [1, 2]}})
    >>> values = {**space.fixed, "schedule.kind": "cubic", "schedule.steps": 1}
    >>> schedule_of(space, values)
    Schedule(kind='linear', begin=0.5, end=0.5, steps=1, shares=())
    """
    kind, begin = str(values[_KIND]), float(values[_BEGIN])
    steps = int(values[_STEPS])
    at = _at_once(kind, begin, float(values[_END]), steps)
    if at is None:
        end = float(values[_END])
        if kind == TASK and space.curve is not None:
            return Schedule.of_curve(space.curve, begin, end, steps)
        return Schedule(kind, begin, end, steps)
    return schedule_at(space, at) or Schedule(kind, at, at, 1)


def schedule_at(space: SearchSpace, at: float) -> Schedule | None:
    """The first schedule of the space that removes everything at that time; None without one."""
    found = _values_at(space, at)
    return Schedule(str(found[_KIND]), at, at, 1) if found else None


def schedule_from(space: SearchSpace, at: float) -> Schedule | None:
    """The first schedule of the space whose first removal is at that time, likewise."""
    found = _values_at(space, at, _begins_at)
    return schedule_of(space, found) if found else None


def first_schedule(space: SearchSpace) -> Schedule:
    """The schedule of the first values of all settings."""
    return schedule_of(space, {**space.fixed, **{p.name: _first(p) for p in space.varied}})


def values_of(space: SearchSpace, schedule: Schedule) -> dict[str, Value]:
    """Values that `schedule_of` turns into this schedule, for those settings that vary.

    Numbers outside a range are moved to its nearest end. Raises ValueError where a choice does not
    hold the schedule's value.
    """
    varied = {p.name: p for p in space.varied if p.name.startswith("schedule.")}
    milestones = schedule.milestones()
    written = {f"schedule.{key}": value for key, value in schedule.to_dict().items()}
    if len(milestones) == 1:
        written |= _values_at(space, milestones[0][0]) or {
            name: _first(varied[name]) for name in (_END, _STEPS) if name in varied
        }
    return {name: parameter.clip(written[name]) for name, parameter in varied.items()}


def _at_once(kind: str, begin: float, end: float, steps: int) -> float | None:
    """When everything is removed, where that is at once."""
    if kind == ONE_SHOT:
        return begin
    return max(begin, end) if steps == 1 or end <= begin else None


def _begins_at(kind: str, begin: float, end: float, steps: int) -> float:
    """When something is removed first."""
    at = _at_once(kind, begin, end, steps)
    return begin if at is None else at


def _values_at(
    space: SearchSpace,
    at: float,
    when: Callable[[str, float, float, int], float | None] = _at_once,
) -> dict[str, Value]:
    """Values of the space that remove everything at that time; empty where there are none."""
    names = (_KIND, _BEGIN, _END, _STEPS)
    wanted: tuple[Value, ...] = (ONE_SHOT, at, at, 1)
    options = [_options(space, *pair) for pair in zip(names, wanted, strict=True)]
    for kind, begin, end, steps in itertools.product(*options):
        if when(str(kind), float(begin), float(end), int(steps)) == at:
            return dict(zip(names, (kind, begin, end, steps), strict=True))
    return {}


def _options(space: SearchSpace, name: str, wanted: Value) -> list[Value]:
    """What a setting can be, the wanted value first; of a range that and its lowest."""
    parameter = next((p for p in space.varied if p.name == name), None)
    if parameter is None:
        return [space.fixed[name]]
    if parameter.choices:
        return sorted(parameter.choices, key=lambda choice: choice != wanted)
    return [parameter.clip(wanted), parameter.clip(parameter.low)]


def _first(parameter: Parameter) -> Value:
    return parameter.choices[0] if parameter.choices else parameter.low
