"""Optuna's side, driven by hand: no Ray process is started here."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import toy
from optuna.trial import TrialState
from ray.tune.search import Searcher
from sqlalchemy.exc import OperationalError

from autoprune._search.initial.proposals import Proposal
from autoprune._search.plan import Limits
from autoprune._search.sampling import study
from autoprune._search.sampling.study import NAME, make_sampler
from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.searcher import ATTEMPTS
from autoprune.budget import Budget
from autoprune.errors import ConfigError
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder


def study_of(folder: RunFolder) -> optuna.Study:
    return optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder.path / 'study.db'}")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "front", "random"])
def test_every_proposal_is_within_the_budget_new_and_known_to_optuna(
    folder: RunFolder, sampler: str
) -> None:
    plan = toy.make_plan(limits=Limits(trials=12), sampler=sampler)
    hand = toy.Hand(folder, plan)
    candidates = hand.play(12)
    hand.close()
    assert all(plan.allows(plan.cost(candidate)) for candidate in candidates)
    assert len({candidate.key for candidate in candidates}) == 12
    told = [t for t in study_of(folder).trials if t.state == TrialState.COMPLETE]
    assert [plan.space.candidate(t.params) for t in told] == candidates
    for trial, candidate in zip(told, candidates, strict=True):
        cost = float(plan.cost(candidate).macs or 0)
        assert trial.values[1] == cost
        assert trial.constraints == {"macs": pytest.approx(cost / (0.5 * 2608) - 1.0)}


def test_a_proposal_over_budget_is_told_truly_and_its_projection_is_tried(
    folder: RunFolder,
) -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": "10%"}))
    hand = toy.Hand(folder, plan)
    hand.play(3)
    hand.close()
    trials, records = study_of(folder).trials, {r.number: r for r in folder.records()}
    refused = [t for t in trials if t.state == TrialState.PRUNED]
    assert refused
    for trial in refused:
        assert trial.constraints["macs"] > 0.0
        record, after = records[trial.number], records[trial.number + 1]
        assert record.state == "infeasible"
        assert "over budget: macs" in (record.error or "")
        assert record.epochs == 0.0
        assert (after.state, after.origin) == ("complete", "tpe projected")
        assert plan.allows(plan.cost(after.candidate))
    assert trials[-1].number == max(records)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_optuna_is_told_which_blocks_were_dropped_not_which_were_drawn(
    folder: RunFolder, sampler: str
) -> None:
    """Two of six may go, and three are drawn on average."""
    plan = toy.make_plan(limits=Limits(trials=10), sampler=sampler, budget=WIDE)
    blocks = dict.fromkeys("uvwxyz", ())
    space = SearchSpace.parse({"ratios": {"max": 0.8}, "depth": {"max": 0.34}})
    plan = replace(plan, space=FittedSpace.of(space, toy.SIZES, blocks=blocks))
    hand = toy.Hand(folder, plan)
    candidates = hand.play(10)
    hand.close()
    told = [t for t in study_of(folder).trials if t.state == TrialState.COMPLETE]
    assert max(len(candidate.architecture.dropped) for candidate in candidates) == 2
    for trial, candidate in zip(told, candidates, strict=True):
        assert [n for n in blocks if trial.params[f"drop.{n}"]] == list(
            candidate.architecture.dropped
        )
        assert plan.space.candidate(trial.params) == candidate
    in_memory = [t for t in hand.searcher.study.trials if t.state == TrialState.COMPLETE]
    assert [t.params for t in in_memory] == [t.params for t in told]


def test_seeds_come_first_and_a_seed_twice_is_tried_once(folder: RunFolder) -> None:
    half = toy.FITTED.at_ratios({"a": 0.5, "b": 0.5, "c": 0.5})
    seed = toy.FITTED.resized(toy.FITTED.candidate({"recovery.lr": 0.05}), half)
    hand = toy.Hand(folder, toy.make_plan(), (Proposal(seed, "seed:x"), Proposal(seed, "seed:y")))
    first, second = hand.play(2)
    hand.close()
    assert first == seed
    assert second != seed
    assert folder.records()[0].origin == "seed:x"


def test_a_trial_in_place_of_a_uniform_baseline_is_one(folder: RunFolder) -> None:
    """Also one that ended before the baseline was queued, as in an earlier run."""
    plan = toy.make_plan(limits=Limits(trials=2))
    plain = toy.FITTED.candidate({"recovery.lr": 0.05})
    widths = [toy.FITTED.at_ratios(dict.fromkeys("abc", ratio)) for ratio in (0.5, 0.75)]
    large, small = (toy.FITTED.resized(plain, each) for each in widths)
    before = toy.Hand(folder, plan, (Proposal(large, "seed:least-0"),))
    before.play(1)
    before.close()
    queued = (
        Proposal(small, "seed:least-1"),
        Proposal(large, "baseline:uniform-0"),
        Proposal(small, "baseline:uniform-1"),
    )
    hand = toy.Hand(folder, plan, queued)
    suggested = hand.suggest()
    assert suggested is not None
    assert hand.ledger.running[1].origin == "seed:least-1 uniform"  # no rung stops it
    hand.complete(suggested[0], 0.9)
    assert hand.suggest() is None
    hand.close()
    records = folder.records()
    assert [r.origin for r in records] == ["seed:least-0 uniform", "seed:least-1 uniform"]
    assert [r.baseline for r in records] == ["uniform", "uniform"]
    assert all(r.baseline == "uniform" for r in hand.ledger.front().members)
    assert hand.ledger.done == 2
    moved = toy.FITTED.resized(plain, toy.FITTED.at_ratios(dict.fromkeys("abc", 0.6)))
    more = replace(plan, limits=Limits(trials=3))
    again = toy.Hand(folder, more, (Proposal(moved, "seed:least-1"),))
    assert again.play(1) != [moved]  # what is marked was tried, nevertheless
    again.close()


WIDE = Budget.parse({"macs": "99%"})  # no proposal is over it


def test_a_stopped_trial_gives_no_value_and_stays_off_the_front(folder: RunFolder) -> None:
    hand = toy.Hand(folder, toy.make_plan(budget=WIDE))
    suggested = hand.suggest()
    assert suggested is not None
    report = Report(1.0, {"accuracy": 0.99})
    hand.searcher.on_trial_complete(suggested[0], {REPORT: report})
    assert len(hand.ledger.front()) == 0
    hand.close()
    (trial,) = study_of(folder).trials
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    (record,) = folder.records()
    assert (record.state, record.epochs, record.metrics) == ("stopped", 1.0, {"accuracy": 0.99})


def test_a_failed_trial_is_told_failed_and_recorded_with_its_reason(folder: RunFolder) -> None:
    hand = toy.Hand(folder, toy.make_plan(budget=WIDE))
    suggested = hand.suggest()
    assert suggested is not None
    report = Report(
        metrics={"accuracy": math.nan},
        history=({"epoch": 1.0, "accuracy": math.nan},),
        error="TrainingError: loss is nan",
    )
    hand.searcher.on_trial_complete(suggested[0], {REPORT: report})
    hand.play(2)
    hand.close()
    assert [t.state.name for t in study_of(folder).trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    first = folder.records()[0]
    assert (first.state, first.error) == ("failed", "TrainingError: loss is nan")
    assert (first.metrics, first.history) == ({}, ({"epoch": 1.0},))


def test_only_as_many_run_as_may_at_once(folder: RunFolder) -> None:
    hand = toy.Hand(folder, toy.make_plan(concurrent=2))
    first, second = hand.suggest(), hand.suggest()
    assert first is not None
    assert second is not None
    assert hand.suggest() is None
    hand.complete(first[0], 0.5)
    assert hand.suggest() is not None
    hand.close()


def test_the_search_ends_after_its_trials(folder: RunFolder) -> None:
    hand = toy.Hand(folder, toy.make_plan(limits=Limits(trials=2)))
    hand.play(2)
    assert hand.searcher.suggest("more") == Searcher.FINISHED
    hand.close()


def test_the_search_ends_before_its_epochs_are_exceeded(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=99, total_epochs=9.0), epochs=4.0)
    hand = toy.Hand(folder, plan)
    hand.play(2)
    assert hand.searcher.suggest("more") == Searcher.FINISHED
    assert hand.ledger.spent_epochs == 8.0
    hand.close()


def test_the_search_ends_with_its_time(folder: RunFolder) -> None:
    hand = toy.Hand(folder, toy.make_plan(limits=Limits(trials=99, seconds=0.0)))
    assert hand.searcher.suggest("none") == Searcher.FINISHED
    hand.close()


def test_a_space_that_is_used_up_ends_the_search(folder: RunFolder) -> None:
    space = SearchSpace.parse({"ratios": {"min": 0.6, "max": 0.75, "per": "global"}, "round_to": 4})
    hand = toy.Hand(folder, toy.make_plan(space=space, limits=Limits(trials=999)))
    seen = set()
    while (suggested := hand.suggest()) is not None:
        seen.add(suggested[1].key)
        hand.complete(suggested[0], 0.5)
    hand.close()
    grid = {hand.searcher._plan.space.candidate({"ratio": r / 1000}).key for r in range(600, 751)}
    assert seen <= grid
    assert len(seen) >= 0.8 * len(grid)


def test_asks_of_a_screening_that_finds_nothing_new_count(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = toy.Hand(folder, toy.make_plan(limits=Limits(trials=999)))
    hand.searcher._screening = SimpleNamespace(
        asks=16,
        cost=SimpleNamespace(screen_s=0.0, to_dict=dict),
        choose=lambda proposals, ledger, number: SimpleNamespace(chosen=None, scores={}),
    )
    monkeypatch.setattr(hand.searcher.ledger, "duplicate_of", lambda candidate: 0)
    assert hand.suggest() is None
    hand.close()
    assert ATTEMPTS <= len(study_of(folder).trials) < ATTEMPTS + 2 * 16


def test_the_same_seed_gives_the_same_candidates_in_the_same_order(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("x", 3), ("y", 3), ("z", 4)):
        hand = toy.Hand(RunFolder.create(tmp_path / name, {}, {}), toy.make_plan(seed=seed))
        runs.append(hand.play(8))
        hand.close()
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_killed_search_goes_on_and_tries_again_what_was_running(folder: RunFolder) -> None:
    plan = toy.make_plan(concurrent=2, limits=Limits(trials=6))
    seeds = tuple(
        Proposal(
            toy.FITTED.candidate({"ratio.b": r, "ratio.c": r, "recovery.lr": 0.05}),
            f"seed:{r}",
        )
        for r in (0.5, 0.6, 0.7)
    )
    killed = toy.Hand(folder, plan, seeds)
    done, running = killed.suggest(), killed.suggest()
    assert done is not None
    assert running is not None
    killed.complete(done[0], 0.5)
    third = killed.suggest()
    assert third is not None
    killed.file.flush()  # and no more: the process is gone

    resumed = toy.Hand(folder, plan, seeds)
    again = resumed.play(5)
    resumed.close()
    assert again[:2] == [running[1], third[1]]
    assert len({c.key for c in [done[1], *again]}) == 6
    trials = study_of(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 6  # each under its first number
    assert [r.origin for r in folder.records()][:3] == ["seed:0.5", "seed:0.6", "seed:0.7"]
    assert resumed.searcher.suggest("more") == Searcher.FINISHED


class Killed(Exception):  # noqa: N818
    """Stands for a kill of the process."""


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "front", "random"])
@pytest.mark.parametrize("writes", range(0, 40, 7))
def test_a_search_that_is_killed_anywhere_makes_the_trials_that_it_would_have_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, writes: int
) -> None:
    """One trial at a time; the kill comes before a write to the study's file."""
    budget = Budget.parse({"macs": "25%"})  # some proposals are over it, and moved into it
    plan = toy.make_plan(sampler=sampler, budget=budget, limits=Limits(trials=12))
    half = toy.FITTED.at_ratios(dict.fromkeys("abc", 0.6))
    base = toy.FITTED.candidate({"recovery.lr": 0.05})
    seeds = (Proposal(base, "seed:a"), Proposal(toy.FITTED.resized(base, half), "seed:b"))
    whole = toy.Hand(RunFolder.create(tmp_path / "whole", {}, {}), plan, seeds)
    expected = whole.play(12)
    whole.close()

    folder = RunFolder.create(tmp_path / "killed", {}, {})
    hand, left, put = toy.Hand(folder, plan, seeds), [writes], study.StudyFile.put

    def failing(file: study.StudyFile, trial: optuna.trial.FrozenTrial) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        put(file, trial)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(study.StudyFile, "put", failing)
        hand.play(12)
    hand.close()
    resumed = toy.Hand(folder, plan, seeds)
    resumed.play(12 - resumed.ledger.done)
    resumed.close()
    records = folder.records()
    assert [r.candidate for r in records if r.state == "complete"] == expected
    others = RunFolder.open(tmp_path / "whole").records()
    assert [(r.number, r.state, r.candidate, r.origin) for r in records] == [
        (r.number, r.state, r.candidate, r.origin) for r in others
    ]
    assert [(t.number, t.state, t.params) for t in study_of(folder).trials] == [
        (t.number, t.state, t.params) for t in study_of(RunFolder(tmp_path / "whole")).trials
    ]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00" + bytes(200), b"text", None])
def test_a_damaged_study_is_set_aside_and_made_again(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    plan = toy.make_plan(budget=WIDE)
    hand = toy.Hand(folder, plan)
    hand.play(3)
    hand.close()
    path = folder.path / "study.db"
    whole = path.read_bytes()
    damaged = whole[: len(whole) // 2] if content is None else content
    path.write_bytes(damaged)
    file = study.StudyFile.mended(folder, plan.objectives)
    trials = study.replay(file, {r.number: r for r in folder.records()}, plan)
    file.close()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3
    if damaged:  # SQLite takes an empty file for a new one
        assert (folder.path / "damaged" / "study.db.0").read_bytes() == damaged
        assert "study.db is damaged" in caplog.text


def test_records_count_where_the_study_says_otherwise(folder: RunFolder) -> None:
    plan = toy.make_plan(budget=WIDE)
    hand = toy.Hand(folder, plan)
    hand.play(2)
    hand.close()
    first = folder.records()[0]
    folder.append(replace(first, state="failed", error="why", metrics={}))
    file = study.StudyFile(folder.path, plan.objectives)
    trials = study.replay(file, {r.number: r for r in folder.records()}, plan)
    file.close()
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_full_disk_of_the_study_does_not_end_the_search(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hand = toy.Hand(folder, toy.make_plan(budget=WIDE))
    hand.play(1)

    def full(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(hand.file, "_write", full)
        hand.play(2)
        hand.file.flush()
    hand.close()
    assert "study.db is not written any more" in caplog.text
    resumed = toy.Hand(folder, toy.make_plan(budget=WIDE))
    resumed.close()
    assert [t.state for t in study_of(folder).trials] == [TrialState.COMPLETE] * 3


def test_seeds_that_moved_since_they_were_tried_are_not_tried_again(folder: RunFolder) -> None:
    def seeds(*ratios: float) -> tuple[Proposal, ...]:
        params = [{"ratio.b": r, "ratio.c": r, "recovery.lr": 0.05} for r in ratios]
        chosen = [toy.FITTED.candidate(each) for each in params]
        return tuple(Proposal(each, f"seed:{place}") for place, each in enumerate(chosen))

    plan = toy.make_plan(budget=Budget.parse({"macs": "60%"}), limits=Limits(trials=6))
    hand = toy.Hand(folder, plan, seeds(0.5, 0.6, 0.7))
    hand.play(2)
    hand.close()
    resumed = toy.Hand(folder, plan, seeds(0.55, 0.65, 0.75))
    resumed.play(2)
    resumed.close()
    assert [record.origin for record in folder.records()][:3] == ["seed:0", "seed:1", "seed:2"]
    origins = [record.origin for record in folder.records()]
    assert len([origin for origin in origins if origin.startswith("seed:")]) == 3


def test_a_study_file_that_was_lost_is_made_again_from_the_records(folder: RunFolder) -> None:
    plan = toy.make_plan(budget=Budget.parse({"macs": "20%"}), limits=Limits(trials=8))
    hand = toy.Hand(folder, plan)
    hand.play(4)
    hand.close()
    before = [(t.state, t.values, t.constraints) for t in study_of(folder).trials]
    for file in folder.path.glob("study.db*"):
        file.unlink()
    resumed = toy.Hand(folder, plan)
    resumed.play(1)
    resumed.close()
    after = [(t.state, t.values, t.constraints) for t in study_of(folder).trials]
    assert after[: len(before)] == before


def test_a_space_in_which_nothing_varies_is_refused(folder: RunFolder) -> None:
    plan = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.0}}))
    with pytest.raises(ConfigError, match="nothing varies in this space"):
        toy.Hand(folder, plan)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of tpe, nsga2, gp, front, random, got 'cma'"):
        make_sampler(toy.make_plan(sampler="cma"))


def test_a_trial_on_its_way_to_the_file_is_not_the_studys_own(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = toy.Hand(folder, toy.make_plan())
    sent = []
    monkeypatch.setattr(hand.file, "put", sent.append)
    assert hand.suggest() is not None
    trial = hand.searcher.study.get_trials(deepcopy=False)[0]
    trial.user_attrs["later"] = 1
    trial.system_attrs["later"] = 1
    assert "later" not in sent[0].user_attrs
    assert "later" not in sent[0].system_attrs
    hand.close()


def test_tpe_looks_at_the_front_and_the_latest_trials_only(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LATEST", 8)
    shown: list[list[int]] = []
    real = study._Recent._get_trials

    def spied(recent: study._Recent, **options: object) -> list[optuna.trial.FrozenTrial]:
        found = real(recent, **options)
        shown.append([trial.number for trial in found])
        return found

    monkeypatch.setattr(study._Recent, "_get_trials", spied)
    hand = toy.Hand(folder, toy.make_plan(limits=Limits(trials=30)))
    hand.play(30)
    hand.close()
    best = {record.number for record in hand.ledger.front().members}
    assert len(shown[-1]) <= 8 + len(best) + 1 < 30
    assert shown[-1] == sorted(shown[-1])
