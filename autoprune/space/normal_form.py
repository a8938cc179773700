"""One form for all candidates that are built and trained alike, whatever says nothing in them.

A setting that changes nothing for a candidate is the first of its choices in the space, or off.
"""

from __future__ import annotations

from dataclasses import replace

from autoprune.candidate import (
    PENALTIES,
    Candidate,
    Recovery,
    Selection,
    Stage,
    most_decay,
    warmup_steps,
)
from autoprune.schedule import Schedule
from autoprune.space.fitted_schedule import first_schedule, schedule_at, schedule_from
from autoprune.space.search_space import SearchSpace
from autoprune.space.settings import Parameter

_EMA = "recovery.ema"


def normal_form(
    candidate: Candidate, space: SearchSpace, *, narrower: bool, steps: int | None = None
) -> Candidate:
    """The candidate that stands for all that are built and trained as this one.

    `narrower` says whether a group has fewer units than in the dense model. `steps` are those of
    the training, None where they are not known.

    - Where the first removal takes everything away, the schedule is the space's first one of those
      that remove all then; where nothing is taken away, its first one.
    - Where no unit and no single weight is chosen, importance and repair are the first ones.
    - What `unused` names of the recovery is off.
    - A decay of the moving average that the training is too short for is the first such one.
    """
    chosen = narrower or bool(candidate.architecture.patterns)
    if not chosen:
        candidate = replace(candidate, selection=_first_selection(space))
    schedule = _schedule(candidate, space, chosen=chosen)
    if schedule != candidate.schedule:
        first, last = candidate.removals[0].architecture, candidate.architecture
        *before, end = [at for at, _ in schedule.milestones()]
        stages = (*(Stage(at, first) for at in before), Stage(end, last)) if before else ()
        candidate = replace(candidate, schedule=schedule, stages=stages)
    off = unused(candidate, narrower=narrower, steps=steps)
    changed = {name: getattr(Recovery(), name) for name in off}
    if steps is not None:
        changed["ema"] = _ema(candidate, space, steps)
    return replace(candidate, recovery=replace(candidate.recovery, **changed))


def unused(candidate: Candidate, *, narrower: bool, steps: int | None = None) -> frozenset[str]:
    """The settings of the recovery that change nothing for a candidate; see `normal_form`."""
    recovery, found = candidate.recovery, set()
    if candidate.last_removal == 0.0 or not _is_smaller(candidate, narrower):
        found |= {"regularizer", "rewarm"}
    if recovery.penalty == PENALTIES[0] and not narrower:
        found.add("regularizer")  # it shrinks the units of groups that get narrower
    if recovery.regularizer == 0.0 or "regularizer" in found:
        found.add("penalty")
    known = steps is not None or recovery.warmup == 0.0
    if known and warmup_steps(recovery.warmup, steps or 1) == 1:
        found.add("rewarm")
    if recovery.distillation == 1.0:  # the loss with the labels does not count
        found.add("label_smoothing")
    return frozenset(found)


def _is_smaller(candidate: Candidate, narrower: bool) -> bool:
    there = candidate.architecture
    return narrower or bool(there.dropped) or bool(there.patterns)


def _schedule(candidate: Candidate, space: SearchSpace, *, chosen: bool) -> Schedule:
    """`chosen` says whether units or weights are removed, not whole blocks alone."""
    begin = candidate.removals[0].progress
    if not _is_smaller(candidate, chosen):
        return first_schedule(space)
    if candidate.last_removal > begin:
        return candidate.schedule
    found = schedule_at(space, begin)
    if found is None and not chosen:  # any removal in steps drops blocks with the first one
        found = schedule_from(space, begin)
    return found or candidate.schedule


def _first_selection(space: SearchSpace) -> Selection:
    first = {**space.fixed, **{p.name: p.choices[0] for p in space.varied if p.choices}}
    return Selection(str(first["importance"]), bool(first["repair"]))


def _ema(candidate: Candidate, space: SearchSpace, steps: int) -> float:
    """The decay; where it is never reached after the last removal, the first such one."""
    decay, parameter = candidate.recovery.ema, _varied(space, _EMA)
    last = min(round(candidate.last_removal * steps), max(steps - 1, 0))
    most = most_decay(steps - last)
    if decay < most or parameter is None:
        return decay
    if not parameter.choices:
        return parameter.high
    return next((float(choice) for choice in parameter.choices if float(choice) >= most), decay)


def _varied(space: SearchSpace, name: str) -> Parameter | None:
    return next((p for p in space.varied if p.name == name), None)
