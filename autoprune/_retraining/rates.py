"""The peak learning rate of a long training, found by successive halving of short ones.

Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoprune.candidate import Candidate
from autoprune.errors import TrainingError, first_line
from autoprune.store import FoundRate, RateTrial
from autoprune.training.optimizers import growth

FACTORS = (0.25, 0.5, 1.0, 2.0)  # of the rate that the length suggests
ROUNDS = ((1 / 16, 2), (1 / 8, 1))  # share of the epochs, and how many go on
COST = len(FACTORS) * ROUNDS[0][0] + ROUNDS[0][1] * ROUNDS[1][0]  # in trainings of full length

Train = Callable[[Candidate, float], float]  # (candidate, epochs) -> validation score, more: better
OnRate = Callable[[RateTrial], None]


def find_rate(
    candidate: Candidate, epochs: float, train: Train, on_rate: OnRate | None = None
) -> FoundRate:
    """The best rate for `epochs`, and what was tried; `on_rate` is told after each training.

    `candidate` has the rate that is tried around. Each round trains a share of the epochs, to the
    end of a schedule of that length, with the rate that belongs to the length (`growth`):
    compared are not rates but factors, since a short training wants a lower rate. A training that
    diverges is the worst. Raises TrainingError where all do.
    """
    recovery = candidate.recovery
    assert recovery.lr is not None, "resolved"
    tried: list[RateTrial] = []
    left: Sequence[float] = FACTORS
    cause = TrainingError()
    for share, going_on in ROUNDS:
        short = share * epochs
        grown = growth(recovery.optimizer, epochs / short)
        scores: dict[float, float] = {}
        for factor in left:
            lr = factor * recovery.lr / grown
            try:
                score = train(replace(candidate, recovery=replace(recovery, lr=lr)), short)
            except TrainingError as error:
                score, cause = -math.inf, error
            scores[factor] = score
            tried.append(RateTrial(factor, lr, short, score if math.isfinite(score) else None))
            if on_rate is not None:
                on_rate(tried[-1])
        left = sorted(scores, key=lambda f: -scores[f])[:going_on]
        if scores[left[0]] == -math.inf:
            rates = ", ".join(f"{each.lr:.3g}" for each in tried)
            raise TrainingError(
                f"training fails at each of the rates {rates} · give a lower one: --lr · the last "
                f"one: {first_line(cause)}"
            ) from cause
    return FoundRate(left[0] * recovery.lr, tuple(tried))
