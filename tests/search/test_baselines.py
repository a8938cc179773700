"""Baselines: what they are, and that they count towards no limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import toy

from autoprune._search.initial.baselines import baselines
from autoprune._search.plan import Limits
from autoprune.budget import Budget
from autoprune.space import SearchSpace
from autoprune.store import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"task": "digits", "budget": {"macs": "50%"}}, {})


def test_uniform_baselines_have_one_ratio_and_lie_within_the_budget() -> None:
    plan = toy.make_plan()
    found = baselines(plan, uniform=3, random=0, known=())
    assert [p.origin for p in found] == [f"baseline:uniform-{k}" for k in range(3)]
    costs = [plan.cost(p.candidate).macs or 0 for p in found]
    assert costs == sorted(costs, reverse=True)
    for proposal in found:
        assert plan.fits(proposal.candidate)
        ratios = proposal.candidate.architecture.ratios(toy.SIZES).values()
        assert max(ratios) - min(ratios) < 2 / 16  # one step of the smallest group


def test_uniform_baselines_of_equal_widths_count_once() -> None:
    """In steps of 16 units, the second and the third cost level have the same widths."""
    space = SearchSpace.parse({"ratios": {"max": 0.8}, "round_to": 16})
    plan = toy.make_plan(space=space, budget=Budget.parse({"macs": "60%"}))
    found = baselines(plan, uniform=3, random=0, known=())
    assert [p.candidate.architecture.widths["c"] for p in found] == [48, 32, 16]


def test_uniform_baselines_that_are_reused_make_room_for_others() -> None:
    plan = toy.make_plan()
    first, second, third = (
        p.candidate.architecture for p in baselines(plan, uniform=3, random=0, known=())
    )
    found = baselines(plan, uniform=2, random=0, known=(), reused={first.key})
    assert [p.candidate.architecture for p in found] == [second, third]


def test_random_baselines_use_the_budget_up_and_differ() -> None:
    plan = toy.make_plan()
    found = baselines(plan, uniform=0, random=3, known=())
    assert len({p.candidate.key for p in found}) == 3
    for proposal in found:
        share = (plan.cost(proposal.candidate).macs or 0) / (toy.DENSE.macs or 1)
        assert 0.4 < share <= 0.5
        ratios = proposal.candidate.architecture.ratios(toy.SIZES).values()
        assert max(ratios) - min(ratios) > 0.05
    assert baselines(plan, uniform=0, random=3, known=()) == found


def test_what_the_search_begins_with_is_not_trained_again() -> None:
    plan = toy.make_plan()
    first, *rest = baselines(plan, uniform=3, random=1, known=())
    assert baselines(plan, uniform=3, random=1, known={first.candidate.key}) == rest


def test_a_space_with_one_ratio_has_no_random_widths() -> None:
    space = SearchSpace.parse({"ratios": {"max": 0.8, "per": "global"}})
    plan = toy.make_plan(space=space)
    assert [p.origin for p in baselines(plan, uniform=1, random=2, known=())] == [
        "baseline:uniform-0"
    ]


def test_they_are_trained_on_top_of_the_trials(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=2))
    extra = baselines(plan, uniform=3, random=1, known=())
    ledger = toy.run_toy(folder, plan, seeds=tuple(extra))
    ended = [r for r in ledger.records.values() if r.state != "infeasible"]
    assert [r.baseline for r in ended if not r.is_counted] == ["uniform"] * 3 + ["random"]
    assert sum(r.is_counted for r in ended) == 2
    assert ledger.done == 2
    assert ledger.spent_epochs == sum(r.epochs for r in ended if r.is_counted)
    assert ledger.ended_by == "2 trials"


def test_they_are_trained_to_their_end(folder: RunFolder) -> None:
    """Rungs stop half of the others."""
    plan = toy.make_plan(limits=Limits(trials=12), epochs=4.0, rungs=2)
    ledger = toy.run_toy(folder, plan, seeds=tuple(baselines(plan, uniform=4, random=2, known=())))
    found = [r for r in ledger.records.values() if r.origin.startswith("baseline:")]
    assert len(found) == 6
    assert all((r.state, r.epochs) == ("complete", 4.0) for r in found)


def test_the_best_architecture_is_trained_from_scratch_at_the_end(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=3), scratch=True)
    hand = toy.Hand(folder, plan)
    hand.play(3)
    suggested = hand.suggest()
    assert suggested is not None
    trial, candidate = suggested
    best = hand.ledger.front().best()
    assert candidate.architecture == best.candidate.architecture
    assert candidate.recovery == replace(best.candidate.recovery, regularizer=0.0)
    assert not candidate.selection.repair
    front = hand.ledger.front().members
    hand.complete(trial, 0.999)
    assert hand.suggest() is None
    assert hand.searcher.is_finished
    hand.close()
    last = folder.records()[-1]
    assert (last.baseline, last.is_counted) == ("scratch", False)
    assert hand.ledger.front().members == front  # however good it is
    again = toy.Hand(folder, plan)
    assert again.searcher.is_finished
    again.close()
