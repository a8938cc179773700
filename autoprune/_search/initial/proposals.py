"""What is tried beside what a sampler proposes: first candidates, baselines, one from scratch."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from autoprune._search.initial.rates import FIRST, OTHER, best_rate, usual_rate, with_rate
from autoprune._search.plan import Plan
from autoprune._search.state.ledger import Ledger
from autoprune.candidate import Candidate, Selection
from autoprune.record import BASELINE, SCRATCH, baseline_of


@dataclass(frozen=True, slots=True)
class Proposal:
    """A queued candidate, its origin, and its score if it has one.

    If `alternatives` are given, the best of all of them is trained (`Screening.best_of`).
    """

    candidate: Candidate
    origin: str
    score: float | None = None
    alternatives: tuple[Candidate, ...] | None = None


class ProposalQueue:
    """Proposals in their order; first candidates and baselines at the best learning rate so far.

    That is known once the first uniform candidate was trained at several (`best_rate`), also in an
    earlier run whose trials are reused.
    """

    def __init__(self, plan: Plan, ledger: Ledger, seeds: Iterable[Proposal]) -> None:
        """With the first candidates and the baselines."""
        self._plan, self._ledger = plan, ledger
        self._waiting = deque(seeds)
        rates = [it.candidate.recovery.lr for it in self._waiting if it.origin == FIRST]
        self._usual_rate = rates[0] if rates else usual_rate(ledger.records.values())

    def __bool__(self) -> bool:
        """Whether a proposal is queued."""
        return bool(self._waiting)

    def leave_out(self, origins: Collection[str]) -> None:
        """Forget those that an earlier session has tried."""
        self._waiting = deque(it for it in self._waiting if it.origin not in origins)

    def put(self, proposal: Proposal) -> None:
        """To be tried after all others."""
        self._waiting.append(proposal)

    def put_first(self, proposal: Proposal) -> None:
        """To be tried next."""
        self._waiting.appendleft(proposal)

    def pop(self) -> Proposal:
        """The next one."""
        return self._rated(self._waiting.popleft())

    def pop_baseline(self) -> Proposal:
        """The next one of `has_baselines`."""
        found = next(it for it in self._waiting if it.origin.startswith(BASELINE))
        self._waiting.remove(found)
        return self._rated(found)

    @property
    def has_baselines(self) -> bool:
        """Whether one is queued that is not subject to the limits, apart from that of the time."""
        if self._ledger.is_closed:
            return False
        return any(it.origin.startswith(BASELINE) for it in self._waiting)

    def is_uniform(self, candidate: Candidate) -> bool:
        """Whether a uniform baseline is queued that has this very candidate."""
        uniform = (it for it in self._waiting if baseline_of(it.origin) == "uniform")
        return any(self._rated(it).candidate.key == candidate.key for it in uniform)

    def from_scratch(self) -> Proposal | None:
        """The best architecture of a search that is over, to be trained from random weights.

        It is trained like the pruned one, also from the dense model as the teacher. None where
        that is not wanted, or was done.
        """
        ledger = self._ledger
        members = ledger.front().members
        if not self._plan.scratch or not members or ledger.running or ledger.is_closed:
            return None
        if any(record.origin == SCRATCH for record in ledger.records.values()):
            return None
        best = min(members, key=self._plan.metric.rank).candidate
        plain = Candidate(
            best.architecture,
            Selection("l2", repair=False),
            recovery=replace(best.recovery, regularizer=0.0),
        )
        return Proposal(plain, SCRATCH)

    def _rated(self, proposal: Proposal) -> Proposal:
        """A first candidate or a baseline at the rate that came out best so far."""
        if self._usual_rate is None or not proposal.origin.startswith(("seed:", BASELINE)):
            return proposal
        best = best_rate(self._ledger.records.values(), self._plan.metric)
        if best is None or proposal.origin.startswith(OTHER):
            return proposal
        rated = partial(with_rate, usual=self._usual_rate, rate=best)
        more = proposal.alternatives
        return replace(
            proposal,
            candidate=rated(proposal.candidate),
            alternatives=None if more is None else tuple(map(rated, more)),
        )
