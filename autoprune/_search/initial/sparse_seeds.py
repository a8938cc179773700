"""First candidates with sparsity patterns: one for each kind that the space has."""

from __future__ import annotations

from collections.abc import Iterator

from autoprune._search.plan import Plan
from autoprune._search.sampling.projection import project
from autoprune.candidate import Candidate
from autoprune.cost_fields import FILE
from autoprune.patterns import DENSE, UNSTRUCTURED

_STEPS = 20


def sparse_seeds(plan: Plan, start: Candidate) -> Iterator[tuple[str, Candidate]]:
    """Kind and candidate, within the budget: as wide as `start` as far as zeros alone suffice.

    Unstructured: with a limit on `file_bytes`, the lowest sparsity that meets the budget, else the
    middle of the range. Where that is not enough, units are pruned too.
    """
    for kind in plan.space.space.patterns.kinds:
        if kind != DENSE:
            found = project(_sparse(plan, start, kind), plan)
            if found is not None and found.architecture.patterns:
                yield kind, found


def _sparse(plan: Plan, start: Candidate, kind: str) -> Candidate:
    fitted, bounds = plan.space.patterns, plan.space.space.patterns
    steps = range(_STEPS + 1) if kind == UNSTRUCTURED and FILE in plan.budget.fields else (10,)
    for step in steps:
        sparsity = bounds.low + (bounds.high - bounds.low) * step / _STEPS
        made = plan.space.resized(start, start.architecture, fitted.uniform(kind, sparsity))
        if plan.fits(made):
            break
    return made
