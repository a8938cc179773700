"""Which proposal is worth its training: many are scored by what is cheap, the best one is trained.

A pool of proposals (what Optuna asks for, and moves around the front) is scored by how far the
outputs are from the dense model's right after removal and repair. A forecast that learns from the
trials so far turns score, cost and settings into the metric after training, with its uncertainty;
the proposal that is expected to add most to the hypervolume is trained. An allocation that nothing
trained vouches for yet (a seed, or one in a gap of the front) is first improved by a local search:
by its score and by what its groups do each alone, since what is best by one of them alone is often
bad after training.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from autoprune._search.allocator import Sensitivity, total_sensitivity
from autoprune._search.ledger import Ledger
from autoprune._search.moves import GAP, Moves
from autoprune._search.plan import Plan
from autoprune._search.projection import project
from autoprune._search.score import NO_DAMAGE, Score
from autoprune._search.surrogate import Belief, Forecast, Known, expected_improvement
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Selection
from autoprune.cost_fields import is_cost
from autoprune.pareto import ParetoFront
from autoprune.record import TrialRecord
from autoprune.training.rng import derive

_LOG = logging.getLogger(__name__)

ENOUGH = 6  # trained trials before the forecast is believed; `Known.prior` alone until then
LATEST = 200  # trained trials that the forecast learns from, besides the front


@dataclass(frozen=True, slots=True)
class Offer:
    """A proposal within the budget; `asked` is its number where Optuna has asked for it."""

    candidate: Candidate
    origin: str
    asked: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The offer to train (None where none could be scored), and every score by candidate key."""

    chosen: Offer | None
    scores: Mapping[str, float]


@dataclass
class Spent:
    """What screening has cost: proposals scored, seconds, samples through the dense model.

    A sample through a smaller model counts as its share of the multiply-accumulates.
    """

    proposals: int = 0
    screen_s: float = 0.0
    samples: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """A JSON-ready form; `Spent(**d)` reads it back."""
        return asdict(self)


class Screening:
    """Chooses among `count` proposals the one to train; deterministic by the plan's seed.

    The score is made when it is first needed. A proposal that cannot be scored is dropped, with the
    reason in the log; where the score itself cannot be made, Optuna's first proposal is chosen.
    """

    def __init__(
        self,
        plan: Plan,
        make_score: Callable[[], Score],
        *,
        count: int,
        damage: Sensitivity | None = None,
    ) -> None:
        """`damage` of single groups guides the moves (see `Moves`) and counts beside the score."""
        self.asks = max(1, count // 4)
        self.spent = Spent()
        self._plan, self._count = plan, count
        self._make_score = make_score
        self._score: Score | None = None
        self._damage = damage
        self._moves = Moves(plan, damage)
        self._scores: dict[Removal, float | None] = {}
        names = [objective.name for objective in plan.objectives]
        costs = [place for place, name in enumerate(names) if is_cost(name)]
        metric = next((place for place in range(len(names)) if place not in costs), 0)
        self._order = [metric, *costs]

    def choose(self, offers: Sequence[Offer], ledger: Ledger, round_number: int) -> Verdict:
        """Fill the pool up with moves, score it, and choose; `round_number` seeds the draws."""
        started = time.monotonic()
        front = ledger.front()
        pool = self._pool(offers, ledger, front, derive(self._plan.seed, "screen", round_number))
        known = [(offer, item) for offer in pool if (item := self._known(offer.candidate))]
        chosen = offers[0] if offers else None
        if known:
            gains = self._gains([item for _, item in known], ledger, front)
            chosen = known[max(range(len(known)), key=gains.__getitem__)][0]
        scores = {item.candidate.key: item.score for _, item in known}
        if chosen is not None and chosen.asked is None and chosen.origin == GAP:
            better = self._improved([chosen.candidate], ledger, round_number)
            if better is not None:
                chosen, scores[better[0].key] = replace(chosen, candidate=better[0]), better[1]
        self.spent.screen_s += time.monotonic() - started
        return Verdict(chosen, scores)

    def settle(
        self, rivals: Sequence[Candidate], ledger: Ledger, round_number: int
    ) -> tuple[Candidate, float] | None:
        """Of candidates of about equal cost the one to train, improved, with its score.

        None where none could be scored. `round_number` seeds the draws.
        """
        started = time.monotonic()
        ready = self._score is not None or self._begin()
        found = self._improved(rivals, ledger, round_number) if ready else None
        self.spent.screen_s += time.monotonic() - started
        return found

    def _improved(
        self, rivals: Sequence[Candidate], ledger: Ledger, round_number: int
    ) -> tuple[Candidate, float] | None:
        """From the best of the rivals on step by step to a better one at no higher cost."""
        rng = np.random.default_rng(derive(self._plan.seed, "improve", round_number))
        fresh = [c for c in rivals if ledger.duplicate_of(c) is None]
        found = [known for c in fresh if (known := self._known(c)) is not None]
        if not found:
            return None
        best = min(found, key=lambda known: known.prior)
        limit = self._plan.cost(best.candidate)
        for _ in range(self._count // 2):
            moved = self._moves.neighbour(rng, best.candidate)
            if moved is None or ledger.duplicate_of(moved) is not None:
                continue
            cost = self._plan.cost(moved)
            if not self._is_dearer(cost, limit):
                known = self._known(moved, cost)
                best = known if known is not None and known.prior < best.prior else best
        return best.candidate, best.score

    def _is_dearer(self, cost: Cost, limit: Cost) -> bool:
        """Whether it costs more in anything that is limited or compared."""
        objectives = [objective.name for objective in self._plan.objectives]
        names = {*self._plan.budget.fields, *filter(is_cost, objectives)}
        return any(cost.get(name) > limit.get(name) * (1.0 + 1e-9) for name in names)

    def resume(self, spent: Mapping[str, Any]) -> None:
        """Count on from what was spent in an earlier sitting."""
        self.spent = Spent(**spent)

    def remember(self, candidate: Candidate, score: float) -> None:
        """Take a score that was computed before."""
        self._scores[removal(candidate)] = score

    def _pool(
        self, offers: Sequence[Offer], ledger: Ledger, front: ParetoFront, seed: int
    ) -> list[Offer]:
        if self._score is None and not self._begin():
            return []
        pool = {offer.candidate.key: offer for offer in offers}
        rng = np.random.default_rng(seed)
        parents = [self._moves.parent(record.candidate) for record in front.members]
        for _ in range(4 * self._count if parents else 0):
            if len(pool) >= self._count:
                break
            move = self._moves.propose(rng, parents)
            inside = project(move[1], self._plan) if move else None
            if move is None or inside is None or ledger.duplicate_of(inside) is not None:
                continue
            pool.setdefault(inside.key, Offer(inside, move[0]))
        return list(pool.values())

    def _known(self, candidate: Candidate, cost: Cost | None = None) -> Known | None:
        """A candidate's score and (where not given) costs; None where it cannot be scored."""
        key = removal(candidate)
        cost = cost or self._plan.cost(candidate)
        if key not in self._scores:
            self._scores[key] = self._scored(candidate, cost.macs)
        score = self._scores[key]
        if score is None:
            return None
        names = [self._plan.objectives[place].name for place in self._order[1:]]
        costs = tuple(cost.get(name) for name in names)
        return Known(candidate, score, costs, self._harm(candidate))

    def _harm(self, candidate: Candidate) -> float:
        if self._damage is None:
            return 0.0
        counts = self._plan.space.counts(candidate.architecture)
        return math.log(max(total_sensitivity(self._damage, counts), NO_DAMAGE))

    def _begin(self) -> bool:
        """Make the score; whether that worked is tried once."""
        if self.asks == 0:
            return False
        try:
            self._score = self._make_score()
        except Exception as error:  # noqa: BLE001 - foreign code: the search must survive it
            _LOG.warning("screening is off: %s", _line(error))
            self.asks = 0
            return False
        self.spent.samples += self._score.dense_samples
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
        self.spent.proposals += 1
        self.spent.samples += self._score.samples * share + self._score.dense_samples - before
        return found

    def _gains(self, pool: list[Known], ledger: Ledger, front: ParetoFront) -> list[Any]:
        """What each is expected to add; where that is nothing, the better mean comes first."""
        trained = self._trained(ledger, front)
        going = [k for r in ledger.running.values() if (k := self._known(r.candidate, r.predicted))]
        reference = np.array([self._plan.objectives[p].sign for p in self._order]) * [
            self._plan.reference[p] for p in self._order
        ]
        beliefs = self._foreseen(trained, [*pool, *going], reference[0])
        if beliefs is not None:
            signs = np.array([objective.sign for objective in self._plan.objectives])
            rows = (front.values * signs)[:, self._order]
        else:
            rows = np.array([[k.prior, *k.costs] for k, _ in trained])
            beliefs = [Belief.certain(k.prior) for k in [*pool, *going]]
            reference[0] = max(k.prior for k in [*pool, *going, *(k for k, _ in trained)]) + 1.0
        hoped = [[b.median, *k.costs] for b, k in zip(beliefs[len(pool) :], going, strict=True)]
        rows = np.array([*rows.tolist(), *hoped]).reshape(-1, len(reference))
        return [
            (expected_improvement(rows, reference.tolist(), belief, k.costs), -belief.median)
            for k, belief in zip(pool, beliefs, strict=False)
        ]

    def _foreseen(
        self, trained: Sequence[tuple[Known, float]], wanted: Sequence[Known], worst: float
    ) -> list[Belief] | None:
        """What the metrics will be after training; None while there are too few trials for that."""
        if len(trained) < ENOUGH:
            return None
        try:
            forecast = Forecast(self._plan, [k for k, _ in trained], [y for _, y in trained], worst)
            beliefs = forecast(wanted)
        except (ValueError, np.linalg.LinAlgError) as error:
            _LOG.warning("the scores alone decide: no forecast: %s", _line(error))
            return None
        good = all(math.isfinite(b.log_excess) and math.isfinite(b.deviation) for b in beliefs)
        return beliefs if good else None

    def _trained(self, ledger: Ledger, front: ParetoFront) -> list[tuple[Known, float]]:
        """Trials with the metric at their end, less is better; a stopped one's is extrapolated."""
        metric = self._plan.objectives[self._order[0]]
        ended = [r for r in ledger.records.values() if r.state in ("complete", "stopped")]
        ended = sorted(ended, key=lambda record: record.number)
        chosen = {r.number: r for r in [*front.members, *ended[-LATEST:]]}
        still_to_come = _still_to_come(list(chosen.values()), metric.name)
        found = []
        for number in sorted(chosen):
            record = chosen[number]
            value = metric.value(record)
            later = 0.0
            if record.state == "stopped":
                later = still_to_come.get(round(record.epochs, 6), math.nan)
            item = self._known(record.candidate, record.predicted) if value is not None else None
            if item is not None and value is not None and not math.isnan(later):
                found.append((item, metric.sign * (value + later)))
        return found


def _still_to_come(records: Sequence[TrialRecord], metric: str) -> dict[float, float]:
    """By epoch, how much the metric of completed trials usually rose from there to their end."""
    rises: dict[float, list[float]] = {}
    for record in records:
        if record.state == "complete" and metric in record.metrics:
            for entry in record.history:
                if metric in entry and "epoch" in entry:
                    rise = record.metrics[metric] - entry[metric]
                    rises.setdefault(round(entry["epoch"], 6), []).append(rise)
    return {epoch: median(found) for epoch, found in rises.items()}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


Removal = tuple[Architecture, Selection]


def removal(candidate: Candidate) -> Removal:
    """What a score depends on: proposals that differ in schedule and recovery share it."""
    return candidate.architecture, candidate.selection
