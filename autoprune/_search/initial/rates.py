"""The learning rate of the first candidates: one of them is trained at three rates.

Which rate a short recovery wants depends on the task: 0.001 to 0.003 for a keyword net, 0.01 for
ResNet-8 (`results/search/lr.md`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from autoprune.candidate import Candidate
from autoprune.pareto import Objective
from autoprune.record import RATE, UNIFORM, TrialRecord
from autoprune.space import FittedSpace

FACTORS = (0.25, 4.0)  # of the usual rate, in separate trials
LEAST_TRIALS = 16  # of a search, below which two of them are too many for that
FIRST = f"{UNIFORM}-0"  # origin of the candidate that is trained at the usual rate
OTHER = f"{FIRST}{RATE}"  # how it begins for the same widths at another one
_LR = "recovery.lr"


def other_rates(candidate: Candidate, space: FittedSpace) -> list[Candidate]:
    """The candidate at lower and higher rates, as far as the range of the space reaches.

    None where the space has one rate, or a list of them.
    """
    parameter = next((p for p in space.varied if p.name == _LR), None)
    usual = candidate.recovery.lr
    if parameter is None or parameter.choices or usual is None:
        return []
    rates = dict.fromkeys(float(parameter.clip(factor * usual)) for factor in FACTORS)
    return [_at(candidate, rate) for rate in rates if rate != usual]


def best_rate(records: Iterable[TrialRecord], metric: Objective) -> float | None:
    """The rate at which the first candidate came out best; None before it is known.

    Of equally good ones the one that was tried first.
    """
    tried = [r for r in records if r.state == "complete" and _is_one(r)]
    if not any(OTHER in record.origin for record in tried):
        return None
    best = min(tried, key=metric.rank)
    return best.candidate.recovery.lr


def usual_rate(records: Iterable[TrialRecord]) -> float | None:
    """The rate at which the first candidate was trained first; None where it is not there."""
    return next((r.candidate.recovery.lr for r in records if _origin(r) == FIRST), None)


def with_rate(candidate: Candidate, usual: float, rate: float) -> Candidate:
    """The candidate at another rate, if it has the usual one."""
    return _at(candidate, rate) if candidate.recovery.lr == usual else candidate


def _is_one(record: TrialRecord) -> bool:
    origin = _origin(record)
    return origin == FIRST or origin.startswith(OTHER)


def _origin(record: TrialRecord) -> str:
    """In the run that trained it."""
    return record.origin.partition(" ")[2] if record.is_reused else record.origin


def _at(candidate: Candidate, rate: float) -> Candidate:
    return replace(candidate, recovery=replace(candidate.recovery, lr=rate))
