"""When a trial is evaluated: counted from its last removal, so that equal training is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.candidate import Candidate

_ROUNDED = 1e-6  # epochs


def evaluations(milestones: Sequence[float], candidate: Candidate) -> tuple[float, ...]:
    """The epochs at which a trial of this candidate is evaluated, ascending; the last is its end.

    `milestones` are those of a trial that removes everything at the beginning. Rungs count the
    training since the last removal: before it a model looks better than it will be, and soon after
    it worse. What would be at the end or after it is left out.

    >>> from autoprune.architecture import Architecture
    >>> from autoprune.schedule import Schedule
    >>> late = Candidate(Architecture({"conv": 4}), schedule=Schedule("one_shot", 0.25, 0.25))
    >>> evaluations((1.0, 2.0, 4.0, 8.0), late)
    (3.0, 4.0, 6.0, 8.0)
    """
    end = milestones[-1]
    last = candidate.last_removal * end
    rungs = (last + trained for trained in milestones[:-1])
    return (*(at for at in rungs if at < end - _ROUNDED), end)


def rung_at(
    milestones: Sequence[float], candidate: Candidate, epochs: float, *, later: float = math.inf
) -> int | None:
    """The rung of an entry in a trial's history that was made after so many epochs: the last one.

    None for its end, for one that was made before all rungs, and for one that was made more than
    `later` epochs after its rung: of a search with other rungs, it was trained longer than what it
    would be compared with.
    """
    *rungs, end = evaluations(milestones, candidate)
    passed = [place for place, at in enumerate(rungs) if at <= epochs + _ROUNDED]
    if not passed or epochs >= end - _ROUNDED or epochs > rungs[passed[-1]] + later:
        return None
    return passed[-1]
