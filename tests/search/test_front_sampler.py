"""The sampler of our own: what it proposes on studies whose trials are arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import toy
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune._search.plan import Limits, Plan
from autoprune._search.sampling.front_sampler import ENOUGH, FrontSampler
from autoprune._search.sampling.moves import random_values
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.study import distributions
from autoprune._search.sampling.variables import Allocated
from autoprune.candidate import Candidate
from autoprune.space.settings import Value
from autoprune.store import RunFolder

PLAN = toy.make_plan(sampler="front", limits=Limits(trials=24))
COUNT = 10


def finished(plan: Plan, params: Mapping[str, Value], over: float = -0.1) -> FrozenTrial:
    made = plan.variables.candidate(params)
    return create_trial(
        values=[toy.height(made), plan.cost(made).get("macs")],
        params=dict(params),
        distributions=distributions(plan),
        system_attrs={"constraints:macs": over},
    )


def drawn(plan: Plan, count: int = COUNT) -> list[FrozenTrial]:
    """Complete trials of random candidates within the budget."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        inside = project(plan.space.candidate(random_values(rng, plan.space.parameters)), plan)
        assert inside is not None
        found.append(finished(plan, plan.variables.params(inside)))
    return found


def study_of(plan: Plan, trials: list[FrozenTrial]) -> optuna.Study:
    directions = [objective.direction for objective in plan.objectives]
    study = optuna.create_study(sampler=FrontSampler(plan), directions=directions)
    study.add_trials(trials)
    return study


def asked(plan: Plan, trials: list[FrozenTrial]) -> Candidate:
    found = study_of(plan, trials).ask(distributions(plan))
    return plan.variables.candidate(found.params)


def volume(folder: Path, plan: Plan) -> float:
    hand = toy.Hand(RunFolder.create(folder, {}, {}), plan)
    hand.play(24)
    hand.close()
    return hand.ledger.front().hypervolume


@pytest.mark.parametrize("seed", range(3))
def test_its_front_grows_faster_than_by_random_proposals(tmp_path: Path, seed: int) -> None:
    plan = replace(PLAN, seed=seed)
    found = volume(tmp_path / "front", plan)
    assert found > volume(tmp_path / "random", replace(plan, sampler="random"))


@pytest.mark.parametrize(("count", "number"), [(ENOUGH - 1, 0), (ENOUGH, 4)])
def test_it_begins_when_there_are_enough_complete_trials(count: int, number: int) -> None:
    study = study_of(PLAN, drawn(PLAN, count))
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert len(space) == number  # three ratios and the learning rate


def test_a_proposal_depends_on_the_seed_and_the_study_alone() -> None:
    trials = drawn(PLAN)
    assert asked(PLAN, trials) == asked(PLAN, trials)
    assert asked(replace(PLAN, seed=1), trials) != asked(PLAN, trials)
    assert asked(PLAN, trials[:-1]) != asked(PLAN, trials)


def test_a_proposal_is_new_and_within_the_budget() -> None:
    trials = drawn(PLAN)
    tried = {PLAN.variables.candidate(it.params).key for it in trials}
    found = [asked(replace(PLAN, seed=seed), trials) for seed in range(5)]
    assert all(PLAN.fits(it) and it.key not in tried for it in found)


def stopped(plan: Plan, params: Mapping[str, Value]) -> FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED, params=dict(params), distributions=distributions(plan)
    )


def test_a_trial_that_was_stopped_at_a_rung_is_not_proposed_again() -> None:
    trials = drawn(PLAN)
    first = study_of(PLAN, trials).ask(distributions(PLAN))
    again = study_of(PLAN, [*trials, stopped(PLAN, first.params)])
    again.sampler.before_trial = lambda study, trial: None  # type: ignore[method-assign]
    pool = FrontSampler(PLAN)._pool(
        np.random.default_rng(0),
        [it.params for it in trials],
        {PLAN.variables.candidate(first.params).key},
    )
    assert PLAN.variables.candidate(first.params).key not in {
        PLAN.variables.candidate(point.params).key for point in pool
    }
    found = PLAN.variables.candidate(again.ask(distributions(PLAN)).params)
    assert found.key != PLAN.variables.candidate(first.params).key


def test_the_regression_learns_from_stopped_trials_what_they_would_have_had() -> None:
    trials, bad = drawn(PLAN), drawn(PLAN, 2 * COUNT)[COUNT:]
    study = optuna.create_study(directions=[o.direction for o in PLAN.objectives])
    study.add_trials([*trials, *(stopped(PLAN, it.params) for it in bad)])
    known = dict.fromkeys(range(COUNT, 2 * COUNT), 0.25)
    sampler = FrontSampler(PLAN, lambda: known)
    ended, unfinished = (
        sampler._trials(study, state) for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    learned = sampler._learned(sampler._front(ended), ended, unfinished)
    assert [metric for _, metric in learned[COUNT:]] == [-0.25] * COUNT  # minimized
    costs = [point.costs for point, _ in learned[COUNT:]]
    assert costs == [sampler._costs(sampler._candidate(it.params)) for it in bad]
    without = FrontSampler(PLAN)._learned(sampler._front(ended), ended, unfinished)
    assert [metric for _, metric in without] == [metric for _, metric in learned[:COUNT]]


def test_trials_that_run_at_the_same_time_differ() -> None:
    study = study_of(PLAN, drawn(PLAN))
    found = [PLAN.variables.candidate(study.ask(distributions(PLAN)).params) for _ in range(4)]
    assert len({it.key for it in found}) == 4
    running = study.get_trials(states=[TrialState.RUNNING])
    assert len(running) == 4


def test_the_front_has_no_trial_that_breaks_a_constraint_unless_all_do() -> None:
    better = {f"ratio.{name}": 0.5 for name in toy.SIZES} | {"recovery.lr": 0.05}
    worse = {f"ratio.{name}": ratio for name, ratio in zip("abc", (0.8, 0.8, 0.2), strict=True)}
    sampler = FrontSampler(PLAN)
    broken = finished(PLAN, better, over=0.2)
    kept = finished(PLAN, {**worse, "recovery.lr": 0.05})
    assert sampler._front([broken, kept]) == [kept]
    assert sampler._front([broken]) == [broken]


def test_it_samples_variables_of_the_allocator(tmp_path: Path) -> None:
    def sensitivity(item: str, option: int) -> float:
        return (1.0 - option / toy.SIZES[item]) ** 2

    plan = replace(PLAN, allocated=Allocated(PLAN, sensitivity))
    hand = toy.Hand(RunFolder.create(tmp_path / "run", {}, {}), plan)
    candidates = hand.play(ENOUGH + 4)
    hand.close()
    assert all(plan.fits(it) for it in candidates)
    assert len({it.key for it in candidates}) == ENOUGH + 4
    study = hand.searcher.study
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert set(space) == {"cost", "offset.early", "offset.middle", "offset.late", "recovery.lr"}
    origins = [it.user_attrs["origin"] for it in study.trials if it.state == TrialState.COMPLETE]
    assert origins[ENOUGH:] == ["front"] * 4  # none of them had to be moved into the budget


def test_a_study_of_equal_trials_still_gets_a_proposal() -> None:
    same = drawn(PLAN, 1) * ENOUGH
    assert asked(PLAN, same).key != PLAN.variables.candidate(same[0].params).key
