"""Screening: many proposals get a cheap score, and only the most promising one is trained.

A pool of proposals is scored by how far the outputs are from the dense model's right after pruning
and repair. A surrogate that learns from the trials so far predicts the metric after training from
score, cost and settings, with its uncertainty; the proposal with the largest expected hypervolume
improvement is trained. The pool holds Optuna's proposals; where those are a ratio for each group,
or none is new, mostly moves around the front. Beside new proposals from the few variables of the
allocator, moves brought nothing (`results/samplers/searches.md`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from autoprune._search.allocation.allocator import Sensitivity, total_sensitivity
from autoprune._search.plan import Plan
from autoprune._search.sampling.extrapolation import final_metrics
from autoprune._search.sampling.moves import GAP, Moves
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.score import NO_DIVERGENCE, Score
from autoprune._search.sampling.surrogate import (
    Posterior,
    ScoredCandidate,
    Surrogate,
    expected_improvement,
    metric_first,
    reference_of,
)
from autoprune._search.state.ledger import Ledger
from autoprune.architecture import FLOAT32, Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Selection
from autoprune.cost_fields import is_cost
from autoprune.pareto import ParetoFront
from autoprune.training.rng import derive

_LOG = logging.getLogger(__name__)

ENOUGH = 6  # trained trials before the surrogate is used; `ScoredCandidate.prior` until then
LATEST = 200  # trained trials that the surrogate learns from, besides the front


@dataclass(frozen=True, slots=True)
class PooledProposal:
    """A proposal within the budget; `asked` is its trial number if it is Optuna's."""

    candidate: Candidate
    origin: str
    asked: int | None = None


@dataclass(frozen=True)
class ScreeningResult:
    """The proposal to train (None where none could be scored), and every score by candidate key."""

    chosen: PooledProposal | None
    scores: Mapping[str, float]


@dataclass
class ScreeningCost:
    """The cost of screening: proposals scored, seconds, samples through the dense model.

    A sample through a smaller model counts as its share of the multiply-accumulates.
    """

    proposals: int = 0
    screen_s: float = 0.0
    samples: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form; `ScreeningCost(**d)` reads it back."""
        return asdict(self)


class Screening:
    """Chooses among proposals the one to train; deterministic by the plan's seed.

    `count` // 4 are asked of Optuna; with a ratio for each group, or where none of these is new,
    moves fill them up to `count`.
    The score is made when it is first needed. A proposal that cannot be scored is dropped, with the
    reason in the log; where the score itself cannot be made, Optuna's first proposal is chosen.
    """

    def __init__(
        self,
        plan: Plan,
        make_score: Callable[[], Score],
        *,
        count: int,
        sensitivity: Sensitivity | None = None,
    ) -> None:
        """`sensitivity` of single groups guides moves (see `Moves`) and adds to the score."""
        self.asks = max(1, count // 4)
        self.cost = ScreeningCost()
        self._plan, self._count = plan, count
        self._make_score = make_score
        self._score: Score | None = None
        self._sensitivity = sensitivity
        self._moves = Moves(plan, sensitivity)
        self._scores: dict[ScoreKey, float | None] = {}
        self._order = metric_first(plan.objectives)

    def choose(
        self, proposals: Sequence[PooledProposal], ledger: Ledger, round_number: int
    ) -> ScreeningResult:
        """Score the proposals (and moves), and choose; `round_number` seeds the draws."""
        started = time.monotonic()
        front = ledger.front()
        pool = self._pool(proposals, ledger, front, derive(self._plan.seed, "screen", round_number))
        scored = [
            (proposal, item) for proposal in pool if (item := self._score_of(proposal.candidate))
        ]
        chosen = proposals[0] if proposals else None
        if scored:
            gains = self._gains([item for _, item in scored], ledger, front)
            chosen = scored[max(range(len(scored)), key=gains.__getitem__)][0]
        scores = {item.candidate.key: item.score for _, item in scored}
        if chosen is not None and chosen.asked is None and chosen.origin == GAP:
            better = self._improved(chosen.candidate, ledger, round_number)
            chosen, scores[better.candidate.key] = (
                replace(chosen, candidate=better.candidate),
                better.score,
            )
        self.cost.screen_s += time.monotonic() - started
        return ScreeningResult(chosen, scores)

    def best_of(
        self, alternatives: Sequence[Candidate], ledger: Ledger
    ) -> tuple[Candidate, float] | None:
        """The best of candidates of about equal cost that were not tried, with its score.

        By the sum of its score and the sensitivities of its groups: the best by one of them alone
        is often bad after training. None where none could be scored.
        """
        started = time.monotonic()
        ready = self._score is not None or self._begin()
        fresh = [c for c in alternatives if ledger.duplicate_of(c) is None] if ready else []
        found = [scored for c in fresh if (scored := self._score_of(c)) is not None]
        best = min(found, key=lambda scored: scored.prior, default=None)
        self.cost.screen_s += time.monotonic() - started
        return None if best is None else (best.candidate, best.score)

    def _improved(self, start: Candidate, ledger: Ledger, round_number: int) -> ScoredCandidate:
        """A local search from a scored candidate in a gap of the front, at no higher cost."""
        rng = np.random.default_rng(derive(self._plan.seed, "improve", round_number))
        limit = self._plan.cost(start)
        best = self._score_of(start, limit)
        assert best is not None, "it was chosen by its score"
        for _ in range(self._count // 2):
            neighbor = self._moves.neighbor(rng, best.candidate)
            if neighbor is None or ledger.duplicate_of(neighbor) is not None:
                continue
            cost = self._plan.cost(neighbor)
            if not self._is_dearer(cost, limit):
                scored = self._score_of(neighbor, cost)
                best = scored if scored is not None and scored.prior < best.prior else best
        return best

    def _is_dearer(self, cost: Cost, limit: Cost) -> bool:
        """Whether it costs more in any limited cost or objective."""
        objectives = [objective.name for objective in self._plan.objectives]
        names = {*self._plan.budget.fields, *filter(is_cost, objectives)}
        return any(cost.get(name) > limit.get(name) * (1.0 + 1e-9) for name in names)

    def resume(self, cost: Mapping[str, Any]) -> None:
        """Continue the count of an earlier session."""
        self.cost = ScreeningCost(**cost)

    def remember(self, candidate: Candidate, score: float) -> None:
        """Reuse a score from an earlier session."""
        self._scores[score_key(candidate)] = score

    def _pool(
        self, proposals: Sequence[PooledProposal], ledger: Ledger, front: ParetoFront, seed: int
    ) -> list[PooledProposal]:
        if self._score is None and not self._begin():
            return []
        pool = {proposal.candidate.key: proposal for proposal in proposals}
        if not front.members or (pool and self._plan.allocated is not None):
            return list(pool.values())
        rng = np.random.default_rng(seed)
        parents = [self._moves.parent(record.candidate) for record in front.members]
        for _ in range(4 * self._count):
            if len(pool) >= self._count:
                break
            move = self._moves.propose(rng, parents)
            inside = project(move[1], self._plan) if move else None
            if move is None or inside is None or ledger.duplicate_of(inside) is not None:
                continue
            pool.setdefault(inside.key, PooledProposal(inside, move[0]))
        return list(pool.values())

    def _score_of(self, candidate: Candidate, cost: Cost | None = None) -> ScoredCandidate | None:
        """A candidate's score and (where not given) costs; None where it cannot be scored."""
        key = score_key(candidate)
        cost = cost or self._plan.cost(candidate)
        if key not in self._scores:
            self._scores[key] = self._scored(candidate, cost.macs)
        score = self._scores[key]
        if score is None:
            return None
        names = [self._plan.objectives[place].name for place in self._order[1:]]
        costs = tuple(cost.get(name) for name in names)
        return ScoredCandidate(candidate, score, costs, self._log_sensitivity(candidate))

    def _log_sensitivity(self, candidate: Candidate) -> float:
        if self._sensitivity is None:
            return 0.0
        counts = self._plan.space.counts(candidate.architecture)
        return math.log(max(total_sensitivity(self._sensitivity, counts), NO_DIVERGENCE))

    def _begin(self) -> bool:
        """Make the score, once; False where that fails."""
        if self.asks == 0:
            return False
        try:
            self._score = self._make_score()
        except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
            _LOG.warning("screening is off: %s", _line(error))
            self.asks = 0
            return False
        self.cost.samples += self._score.dense_samples
        return True

    def _scored(self, candidate: Candidate, macs: int | None) -> float | None:
        try:
            assert self._score is not None, "_begin comes first"
            before = self._score.dense_samples
            found = self._score(candidate)
        except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
            _LOG.warning("a proposal was dropped: %s", _line(error))
            return None
        share = (macs or 0) / self._plan.dense.get("macs")
        self.cost.proposals += 1
        self.cost.samples += self._score.samples * share + self._score.dense_samples - before
        return found

    def _gains(self, pool: list[ScoredCandidate], ledger: Ledger, front: ParetoFront) -> list[Any]:
        """The expected improvement of each, then its negated median to break ties at zero."""
        trained = self._trained(ledger, front)
        running = [
            k for r in ledger.running.values() if (k := self._score_of(r.candidate, r.predicted))
        ]
        signs = np.array([objective.sign for objective in self._plan.objectives])
        rows = (front.values * signs)[:, self._order]
        reference = reference_of(self._plan, rows[:, 0])
        posteriors = self._posteriors(trained, [*pool, *running], reference[0])
        if posteriors is None:
            rows = np.array([[k.prior, *k.costs] for k, _ in trained])
            posteriors = [Posterior.certain(k.prior) for k in [*pool, *running]]
            reference[0] = max(k.prior for k in [*pool, *running, *(k for k, _ in trained)]) + 1.0
        expected = [
            [b.median, *k.costs] for b, k in zip(posteriors[len(pool) :], running, strict=True)
        ]
        rows = np.array([*rows.tolist(), *expected]).reshape(-1, len(reference))
        return [
            (expected_improvement(rows, reference, posterior, k.costs), -posterior.median)
            for k, posterior in zip(pool, posteriors, strict=False)
        ]

    def _posteriors(
        self,
        trained: Sequence[tuple[ScoredCandidate, float]],
        wanted: Sequence[ScoredCandidate],
        worst: float,
    ) -> list[Posterior] | None:
        """Posteriors of the metrics after training; None while there are too few trials."""
        if len(trained) < ENOUGH:
            return None
        try:
            surrogate = Surrogate(
                self._plan, [k for k, _ in trained], [y for _, y in trained], worst
            )
            posteriors = surrogate(wanted)
        except (ValueError, np.linalg.LinAlgError) as error:
            _LOG.warning(
                "the surrogate could not be fitted, proposals are ranked by score alone: %s",
                _line(error),
            )
            return None
        good = all(math.isfinite(b.log_excess) and math.isfinite(b.deviation) for b in posteriors)
        return posteriors if good else None

    def _trained(self, ledger: Ledger, front: ParetoFront) -> list[tuple[ScoredCandidate, float]]:
        """Trials with their final metric, less is better; a stopped trial's is extrapolated."""
        metric = self._plan.objectives[self._order[0]]
        ended = [r for r in ledger.records.values() if r.state in ("complete", "stopped")]
        ended = [record for record in ended if record.baseline != "scratch"]
        ended = sorted(ended, key=lambda record: record.number)
        chosen = {r.number: r for r in [*front.members, *ended[-LATEST:]]}
        finals = final_metrics(chosen.values(), metric, self._plan.epochs)
        found = []
        for number in sorted(finals):
            item = self._score_of(chosen[number].candidate, chosen[number].predicted)
            if item is not None:
                found.append((item, metric.sign * finals[number]))
        return found


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


ScoreKey = tuple[Architecture, Selection]


def score_key(candidate: Candidate) -> ScoreKey:
    """What a score depends on; schedule, recovery and precision do not change it."""
    return replace(candidate.architecture, precision=FLOAT32), candidate.selection
