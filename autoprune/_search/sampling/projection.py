"""Project a candidate that is over budget into the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoprune._search.plan import Plan
from autoprune.architecture import INT8
from autoprune.candidate import Candidate
from autoprune.cost_fields import FILE
from autoprune.space import FittedSpace

_HALVINGS = 12


def project(candidate: Candidate, plan: Plan) -> Candidate | None:
    """The nearest candidate within the budget on the straight line to the smallest model.

    Every group's ratio moves by the same fraction towards the space's largest ratio, so that the
    order of the groups is kept; the smallest fraction that suffices, to 1 part in 4096. Where the
    space has one ratio for all groups, that ratio moves. With a limit on `file_bytes` the sparsity
    of an unstructured pattern moves likewise. Where widths alone do not suffice, blocks are
    dropped, the costliest first, and then the model becomes int8. A candidate within the budget is
    returned as it is. None when nothing meets the budget. In the space's normal form.
    """
    found = _project(candidate, plan)
    if found is not None or candidate.architecture.precision == INT8:
        return found
    if INT8 not in plan.space.space.precisions:
        return None
    return _project(candidate.in_precision(INT8), plan)


def _project(candidate: Candidate, plan: Plan) -> Candidate | None:
    """As `project`, in the candidate's own precision."""
    if plan.fits(candidate):
        return plan.space.normal(candidate)
    start, dropped = _ratios(candidate, plan.space), tuple(candidate.architecture.dropped)
    best = _moved(candidate, dropped, start, plan, 1.0)
    more = [name for name in plan.costliest if name not in dropped]
    room = plan.space.most_dropped - len(dropped)
    for name in more[:room]:
        if plan.fits(best):
            break
        dropped = (*dropped, name)
        best = _moved(candidate, dropped, start, plan, 1.0)
    if not plan.fits(best):
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        moved = _moved(candidate, dropped, start, plan, middle)
        if plan.fits(moved):
            best, high = moved, middle
        else:
            low = middle
    return best


def _ratios(candidate: Candidate, space: FittedSpace) -> Mapping[str, float]:
    """The ratios before rounding: in a space with one ratio for all, that ratio everywhere."""
    if space.per_group:
        return candidate.architecture.ratios(space.sizes)
    return dict.fromkeys(space.widths, space.common_ratio(candidate))


def _moved(
    candidate: Candidate,
    dropped: Sequence[str],
    start: Mapping[str, float],
    plan: Plan,
    share: float,
) -> Candidate:
    ratios = {
        name: ratio + share * max(0.0, plan.space.ratio_range(name)[1] - ratio)
        for name, ratio in start.items()
    }
    there = candidate.architecture
    patterns = plan.space.patterns.params(there)
    if FILE in plan.budget.fields:  # nothing else gets less by it
        patterns = plan.space.patterns.sparser(patterns, share)
    architecture = plan.space.at_ratios(ratios, dropped, there.precision)
    return plan.space.resized(candidate, architecture, patterns)
