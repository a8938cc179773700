"""Queued proposals: their order, baselines among them, and the learning rate they come at."""

from __future__ import annotations

import pytest

from autoprune._search.initial.proposals import Proposal, ProposalQueue
from autoprune._search.state.ledger import Ledger
from autoprune._search.state.messages import Report
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.record import SCRATCH
from autoprune.store import RunFolder
from tests.search.toy import FITTED, make_plan

USUAL, BEST = 0.02, 0.08
FIRST, HIGHER = "seed:uniform-0", "seed:uniform-0-rate-0"


@pytest.fixture
def ledger(folder: RunFolder) -> Ledger:
    return Ledger(make_plan(scratch=True), folder)


def at_rate(lr: float) -> Candidate:
    widths = {name: size // 2 for name, size in FITTED.sizes.items()}
    return Candidate(Architecture(widths), recovery=Recovery(lr))


def proposal(origin: str, lr: float = USUAL) -> Proposal:
    return Proposal(at_rate(lr), origin)


def trained(ledger: Ledger, number: int, origin: str, lr: float, accuracy: float) -> None:
    made = at_rate(lr)
    ledger.start(number, made, make_plan().cost(made), origin)
    ledger.report(number, Report(metrics={"accuracy": accuracy}, epochs=1.0, finished=True))
    ledger.finish(number)


def queue(ledger: Ledger, *proposals: Proposal) -> ProposalQueue:
    return ProposalQueue(make_plan(scratch=True), ledger, proposals)


def test_proposals_come_in_their_order_and_a_projection_first(ledger: Ledger) -> None:
    waiting = queue(ledger, proposal("seed:least-0"))
    waiting.put(proposal("screened:gap"))
    waiting.put_first(proposal("tpe projected"))
    origins = [waiting.pop().origin for _ in range(3)]
    assert origins == ["tpe projected", "seed:least-0", "screened:gap"]
    assert not waiting


def test_what_an_earlier_session_tried_is_left_out(ledger: Ledger) -> None:
    waiting = queue(ledger, proposal("seed:least-0"), proposal("seed:least-1"))
    waiting.leave_out({"seed:least-0"})
    assert waiting.pop().origin == "seed:least-1"
    assert not waiting


def test_first_candidates_come_at_the_best_rate_others_at_their_own(ledger: Ledger) -> None:
    waiting = queue(
        ledger, proposal(FIRST), proposal(HIGHER, BEST), proposal("seed:least-0"), proposal("tpe")
    )
    trained(ledger, 0, waiting.pop().origin, USUAL, accuracy=0.7)
    trained(ledger, 1, waiting.pop().origin, BEST, accuracy=0.8)
    assert [waiting.pop().candidate.recovery.lr for _ in range(2)] == [BEST, USUAL]


def test_baselines_are_found_behind_other_proposals(ledger: Ledger) -> None:
    waiting = queue(ledger, proposal("seed:least-0"), proposal("baseline:uniform-1"))
    assert waiting.has_baselines
    assert waiting.pop_baseline().origin == "baseline:uniform-1"
    assert not waiting.has_baselines
    assert waiting.pop().origin == "seed:least-0"


def test_the_best_of_the_front_is_trained_from_scratch_once(ledger: Ledger) -> None:
    waiting = queue(ledger)
    assert waiting.from_scratch() is None  # nothing is trained yet
    trained(ledger, 0, "seed:least-0", USUAL, accuracy=0.7)
    found = waiting.from_scratch()
    assert found is not None
    assert found.candidate.architecture == at_rate(USUAL).architecture
    assert not found.candidate.selection.repair
    trained(ledger, 1, SCRATCH, USUAL, accuracy=0.2)
    assert waiting.from_scratch() is None
