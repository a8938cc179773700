"""Screening: what is proposed, how it is scored and foreseen, what is chosen, who hears of it."""

import itertools
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import toy
from optuna.trial import TrialState
from stripes import Stripes
from torch import Tensor

from autoprune._search.initial.proposals import Proposal
from autoprune._search.plan import Limits, Plan
from autoprune._search.sampling.moves import Moves
from autoprune._search.sampling.projection import project
from autoprune._search.sampling.score import RepairScore, heads
from autoprune._search.sampling.screening import ENOUGH, PooledProposal, Screening
from autoprune._search.sampling.study import NAME
from autoprune._search.sampling.surrogate import (
    Posterior,
    ScoredCandidate,
    Surrogate,
    expected_improvement,
)
from autoprune._search.state.ledger import Ledger
from autoprune._search.trials.searcher import SCORE, SCREENED
from autoprune.architecture import Architecture
from autoprune.budget import Budget
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.graph import trace
from autoprune.pareto import ParetoFront, hypervolume
from autoprune.pruning.compensate import calibrate, reestimate_batchnorm
from autoprune.store import RunFolder

WEIGHTS = {"a": 0.1, "b": 0.3, "c": 0.5}


def damage(candidate: Candidate) -> float:
    return sum(
        r * r * WEIGHTS[name] for name, r in candidate.architecture.ratios(toy.SIZES).items()
    )


def accuracy(candidate: Candidate) -> float:
    return 1.0 - damage(candidate) - (math.log(candidate.recovery.lr / 0.03)) ** 2 / 100


class ToyScore:
    """The log of the toy's damage; `breaks` says for which candidates it raises."""

    samples, dense_samples = 10, 5.0

    def __init__(self, breaks: Callable[[Candidate], bool] = lambda candidate: False) -> None:
        self.calls: list[Candidate] = []
        self._breaks = breaks

    def __call__(self, candidate: Candidate) -> float:
        self.calls.append(candidate)
        if self._breaks(candidate):
            raise RuntimeError("this one cannot be built")
        return math.log(damage(candidate) + 1e-3)


def screening(plan: Plan, score: ToyScore | None = None, count: int = 8) -> Screening:
    made = score or ToyScore()
    return Screening(plan, lambda: made, count=count)


def play(folder: RunFolder, trials: int, **changes: object) -> toy.Hand:
    """A finished toy search with screening."""
    plan = toy.make_plan(limits=Limits(trials=trials), **changes)
    hand = toy.Hand(folder, plan, screening=screening(plan), accuracy=accuracy)
    hand.play(trials)
    hand.file.close()
    return hand


@pytest.mark.parametrize("deviation", [0.1, 0.7])
def test_the_expected_improvement_is_the_mean_of_sampled_improvements(deviation: float) -> None:
    front = [[0.5, 0.2], [0.3, 0.5], [0.1, 0.8]]
    reference, floor, excess, cost = (1.0, 1.0), 0.05, math.log(0.2), 0.4
    draws = floor + np.random.default_rng(0).lognormal(excess, deviation, 4000)
    before = hypervolume(front, reference)
    gains = [hypervolume([*front, [y, cost]], reference) - before for y in draws]
    found = expected_improvement(front, reference, Posterior(floor, excess, deviation), (cost,))
    assert found == pytest.approx(np.mean(gains), rel=0.05)


def test_without_uncertainty_the_improvement_is_exact_for_any_number_of_costs() -> None:
    rng = np.random.default_rng(1)
    for costs in (1, 2, 3):
        front, reference = rng.random((5, 1 + costs)), (1.0,) * (1 + costs)
        point = rng.random(1 + costs)
        gain = hypervolume([*front, point], reference) - hypervolume(front, reference)
        posterior = Posterior.certain(point[0])
        found = expected_improvement(front, reference, posterior, tuple(point[1:]))
        assert found == pytest.approx(gain, abs=1e-9)


def test_nothing_is_expected_where_the_front_is_as_good_as_the_best() -> None:
    posterior = Posterior(0.1, math.log(0.05), 0.5)
    assert posterior.below([0.1, 0.05, -1.0]).tolist() == [0.0, 0.0, 0.0]
    assert 0.0 < posterior.below([0.12])[0] < 0.001


def test_without_any_cost_it_is_the_improvement_on_the_best() -> None:
    posterior = Posterior.certain(0.1)
    assert expected_improvement([[0.5], [0.4]], (1.0,), posterior, ()) == pytest.approx(0.3)


def known_of(plan: Plan, candidate: Candidate) -> ScoredCandidate:
    cost = plan.cost(candidate)
    return ScoredCandidate(candidate, math.log(damage(candidate) + 1e-3), (cost.get("macs"),))


def random_candidates(plan: Plan, count: int, seed: int = 0) -> list[Candidate]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        params = {f"ratio.{name}": float(rng.uniform(0.0, 0.8)) for name in toy.SIZES}
        params["recovery.lr"] = float(rng.uniform(0.01, 0.1))
        found.append(plan.space.candidate(params))
    return found


def test_the_forecast_learns_from_score_and_settings_and_knows_its_error() -> None:
    plan = toy.make_plan()
    trained, unseen = random_candidates(plan, 30), random_candidates(plan, 200, seed=1)
    scored, targets = [known_of(plan, c) for c in trained], [-accuracy(c) for c in trained]
    posteriors = Surrogate(plan, scored, targets, 0.0)([known_of(plan, c) for c in unseen])
    truth = np.array([-accuracy(c) for c in unseen])
    assert np.corrcoef([b.median for b in posteriors], truth)[0, 1] > 0.95
    far = [
        abs(math.log(max(1e-9, y - b.floor)) - b.log_excess) > 3 * b.deviation
        for y, b in zip(truth, posteriors, strict=True)
    ]
    assert np.mean(far) < 0.15


def test_a_forecast_from_two_equal_trials_is_their_value() -> None:
    plan = toy.make_plan()
    one = known_of(plan, random_candidates(plan, 1)[0])
    [posterior] = Surrogate(plan, [one, one], [0.25, 0.25], 0.1)([one])
    assert posterior.median == pytest.approx(0.25)
    assert math.isfinite(posterior.deviation)


def test_metrics_beyond_the_worst_that_counts_are_hardly_told_apart() -> None:
    plan = toy.make_plan()
    scored = [known_of(plan, c) for c in random_candidates(plan, 12)]
    targets = [-accuracy(k.candidate) for k in scored]
    worst = sorted(targets)[8]
    posteriors = [
        Surrogate(plan, scored, [y + 5.0 * far * (y > worst + 0.1) for y in targets], worst)(scored)
        for far in (0, 1)
    ]
    assert max(b.median for b in posteriors[1]) < worst + 0.5 * (worst - min(targets))


def front_of(plan: Plan, moves: Moves) -> list:
    inside = [project(c, plan) for c in random_candidates(plan, 6)]
    return sorted((moves.parent(c) for c in inside if c), key=lambda p: p.share)


@pytest.mark.parametrize("damages", [None, lambda name, kept: WEIGHTS[name] * (64 - kept)])
def test_moves_are_candidates_of_the_space_and_equal_for_equal_seeds(
    damages: Callable[[str, int], float] | None,
) -> None:
    plan = toy.make_plan()
    found = []
    for _ in range(2):
        moves, rng = Moves(plan, damages), np.random.default_rng(3)
        parents = front_of(plan, moves)
        found.append([moves.propose(rng, parents) for _ in range(40)])
    assert found[0] == found[1]
    made = [move for move in found[0] if move]
    assert {kind for kind, _ in made} == {"recipe", "shift", "gap", "cross"}
    for _, candidate in made:
        params = plan.space.params(candidate)
        assert plan.space.candidate(params) == candidate


def macs(widths: Mapping[str, int]) -> float:
    return toy.price(Architecture(widths)).get("macs")


def test_a_shift_costs_no_more_and_does_the_least_damage_of_its_draws() -> None:
    plan = toy.make_plan()
    log_sensitivity = {"a": 0.0, "b": 1.0, "c": 100.0}
    moves = Moves(plan, lambda name, kept: log_sensitivity[name] * (toy.SIZES[name] - kept))
    start = {"a": 8, "b": 16, "c": 32}
    taken = [moves._shifted(np.random.default_rng(seed), start) for seed in range(20)]
    for kept in filter(None, taken):
        assert macs(kept) <= macs(start)
        assert sum(kept[n] > start[n] for n in kept) == 1 == sum(kept[n] < start[n] for n in kept)
    assert sum(kept["c"] >= start["c"] for kept in taken if kept) > 15


def test_a_gap_is_filled_by_the_least_sensitive_widths() -> None:
    plan = toy.make_plan()
    moves = Moves(plan, lambda name, kept: {"a": 50.0, "b": 1.0, "c": 9.0}[name] / kept)
    kept = moves._at(0.4, {})
    assert moves.share(kept) <= 0.4
    # brute force over every allocation that costs at most as much
    grid = itertools.product(*(plan.space.choices(name) for name in "abc"))
    best = min(
        (moves._allocator.total(dict(zip("abc", units, strict=True))), units)
        for units in grid
        if moves.share(dict(zip("abc", units, strict=True))) <= moves.share(kept)
    )
    assert moves._allocator.total(kept) <= best[0] * 1.1


def test_one_ratio_for_all_groups_stays_one() -> None:
    space = toy.SearchSpace.parse({"ratios": {"max": 0.8, "per": "global"}})
    plan = toy.make_plan(space=space)
    moves = Moves(plan, lambda name, kept: 1.0)
    start = plan.space.candidate({"ratio": 0.6})
    rng = np.random.default_rng(0)
    made = [moves.propose(rng, [moves.parent(start)]) for _ in range(10)]
    for move in made:
        assert move is not None
        plan.space.params(move[1])  # raises where no single ratio gives it
    assert len({move[1] for move in made if move}) > 3


def test_before_there_are_trials_the_least_damage_for_its_cost_is_chosen(folder: RunFolder) -> None:
    plan = toy.make_plan()
    base = plan.space.candidate({"recovery.lr": 0.03})
    mild, harsh, broken = (
        plan.space.resized(base, plan.space.at_ratios(dict(zip("abc", ratios, strict=True))))
        for ratios in ((0.5, 0.5, 0.5), (0.5, 0.5, 0.8), (0.8, 0.8, 0.8))
    )
    score = ToyScore(lambda candidate: candidate == broken)
    proposals = [PooledProposal(c, "x", n) for n, c in enumerate((broken, harsh, mild))]
    result = screening(plan, score).choose(proposals, Ledger(plan, folder), 0)
    assert set(result.scores) == {mild.key, harsh.key}
    assert result.chosen is not None
    costs = {c: plan.cost(c).get("macs") for c in (mild, harsh)}
    scores = {c: math.log(damage(c) + 1e-3) for c in (mild, harsh)}
    worst, end = max(scores.values()) + 1.0, float(toy.DENSE.macs or 0)
    area = {c: (worst - scores[c]) * (end - costs[c]) for c in (mild, harsh)}
    assert result.chosen.candidate == max(area, key=area.__getitem__)


def test_a_dropped_proposal_leaves_its_reason(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plan = toy.make_plan(limits=Limits(trials=4))
    hand = toy.Hand(folder, plan, screening=screening(plan, ToyScore(lambda candidate: True)))
    with caplog.at_level(logging.WARNING):
        assert len(hand.play(4)) == 4
    hand.file.close()
    assert "a proposal was dropped: RuntimeError: this one cannot be built" in caplog.text


def test_a_score_that_cannot_be_made_turns_screening_off(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> ToyScore:
        raise ValueError("outputs of this task\ncannot be compared")

    plan = toy.make_plan(limits=Limits(trials=4))
    hand = toy.Hand(folder, plan, screening=Screening(plan, fail, count=8))
    with caplog.at_level(logging.WARNING):
        assert len(hand.play(4)) == 4
    hand.file.close()
    text = "screening is off: ValueError: outputs of this task cannot be compared"
    assert [r.getMessage() for r in caplog.records].count(text) == 1


def test_projections_are_trained_unscored_where_no_score_can_be_computed(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=4), budget=Budget.parse({"macs": "15%"}))
    hand = toy.Hand(folder, plan, screening=screening(plan, ToyScore(lambda candidate: True)))
    assert len(hand.play(4)) == 4
    hand.file.close()
    assert any("projected" in record.origin for record in folder.records())


def test_what_is_trained_is_what_optuna_knows_and_the_rest_is_told(folder: RunFolder) -> None:
    hand = play(folder, 14)
    trials = optuna.load_study(
        study_name=NAME, storage=f"sqlite:///{folder.path / 'study.db'}"
    ).trials
    records = folder.records()
    complete = {t.number: t for t in trials if t.state == TrialState.COMPLETE}
    assert sorted(complete) == [r.number for r in records if r.state == "complete"]
    for record in records:
        if record.state == "complete":
            assert complete[record.number].user_attrs["candidate"] == record.candidate.key
            assert record.origin.startswith("screened:")
            assert record.times["screen_s"] > 0.0
    left = [t for t in trials if SCREENED in t.user_attrs]
    assert left
    assert all(t.state == TrialState.PRUNED and SCORE in t.user_attrs for t in left)
    sampled = {t.number: t.state for t in hand.searcher.study.trials}
    assert all(sampled[t.number] == TrialState.FAIL for t in left)  # the sampler does not see them
    assert {r.origin for r in records} > {"screened:shift"}


def test_its_work_is_counted_and_counted_on(folder: RunFolder) -> None:
    play(folder, 10)
    spent = folder.state().screening
    assert spent["proposals"] > 10
    assert spent["screen_s"] > 0.0
    assert 5.0 < spent["samples"] <= 5.0 + 10 * spent["proposals"] * 0.5  # half the cost at most
    plan = toy.make_plan(limits=Limits(trials=12))
    score = ToyScore()
    hand = toy.Hand(folder, plan, screening=screening(plan, score), accuracy=accuracy)
    hand.play(2)
    hand.file.close()
    later = folder.state().screening
    assert later["proposals"] == spent["proposals"] + len(score.calls)
    assert len(score.calls) <= 2 * 8 + 2  # what was scored before is remembered


@pytest.mark.parametrize("trials", [3, 7, 9])
def test_a_screened_search_goes_on_as_if_never_interrupted(tmp_path: Path, trials: int) -> None:
    whole, cut = (RunFolder.create(tmp_path / name, {}, {}) for name in ("whole", "cut"))
    play(whole, 12)
    play(cut, trials)
    plan = toy.make_plan(limits=Limits(trials=12))
    hand = toy.Hand(cut, plan, screening=screening(plan), accuracy=accuracy)
    hand.suggest()  # is running when the process is killed
    hand.file.flush()
    again = toy.Hand(cut, plan, screening=screening(plan), accuracy=accuracy)
    again.play(12 - trials)
    again.file.close()
    assert [(r.number, r.state, r.candidate, r.origin) for r in cut.records()] == [
        (r.number, r.state, r.candidate, r.origin) for r in whole.records()
    ]
    assert again.ledger.front().hypervolume == toy_front(whole, plan).hypervolume


def toy_front(folder: RunFolder, plan: Plan) -> ParetoFront:
    return Ledger(plan, folder).front()


def test_equal_seeds_choose_equal_trials_and_others_do_not(tmp_path: Path) -> None:
    keys = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        folder = RunFolder.create(tmp_path / name, {}, {})
        play(folder, 10, seed=seed)
        keys.append([r.candidate.key for r in folder.records() if r.state == "complete"])
    assert keys[0] == keys[1] != keys[2]


def test_it_beats_the_sampler_alone_at_equal_trials(tmp_path: Path) -> None:
    found = {}
    for count in (0, 8):
        volumes = []
        for seed in range(2):
            folder = RunFolder.create(tmp_path / f"{count}-{seed}", {}, {})
            plan = toy.make_plan(limits=Limits(trials=18), seed=seed)
            hand = toy.Hand(
                folder,
                plan,
                screening=screening(plan, count=count) if count else None,
                accuracy=accuracy,
            )
            hand.play(18)
            hand.file.close()
            volumes.append(hand.ledger.front().hypervolume)
        found[count] = volumes
    assert min(found[8]) > max(found[0])


@pytest.mark.parametrize(
    ("epochs", "wanted"),
    [
        (1.0, [-0.9, -0.8, -0.6]),
        (3.0, [-0.9, -0.8, -0.5 - 0.1 / 3]),  # a third of the way from 4 to 1 epochs
        (0.5, [-0.9, -0.8]),  # earlier than any other: nothing is known of it
    ],
)
def test_a_stopped_trial_counts_with_what_it_would_have_gained(
    folder: RunFolder, epochs: float, wanted: list[float]
) -> None:
    hand = play(folder, 3)
    records = [r for r in folder.records() if r.state == "complete"]
    for record, end in zip(records, (0.8, 0.9, 0.6), strict=True):
        history = ({"epoch": 1.0, "accuracy": end - 0.1}, {"epoch": 4.0, "accuracy": end})
        metrics = {"accuracy": end}
        hand.ledger.records[record.number] = replace(record, history=history, metrics=metrics)
    stopped = replace(records[2], state="stopped", epochs=epochs, metrics={"accuracy": 0.5})
    hand.ledger.records[records[2].number] = stopped
    found = screening(hand.plan)
    found._begin()
    trained = found._trained(hand.ledger, hand.ledger.front())
    assert sorted(y for _, y in trained) == pytest.approx(wanted)


def test_what_is_settled_is_the_best_of_the_rivals(folder: RunFolder) -> None:
    plan = toy.make_plan()
    score = ToyScore()
    hand = toy.Hand(folder, plan)
    alternatives = [c for c in (project(r, plan) for r in random_candidates(plan, 3)) if c]
    found = screening(plan, score).best_of(alternatives, hand.ledger)
    hand.close()
    best = min(alternatives, key=damage)
    assert found == (best, pytest.approx(math.log(damage(best) + 1e-3)))
    assert len(score.calls) == 3


def test_moves_fill_the_pool_beside_ratios_of_groups_or_where_nothing_is_new(
    folder: RunFolder,
) -> None:
    plan = toy.make_plan()
    hand = toy.Hand(folder, plan, [], None, accuracy)
    hand.play(4)
    drawn = [
        PooledProposal(c, "tpe") for r in random_candidates(plan, 2) if (c := project(r, plan))
    ]
    allocated = replace(plan, allocated=plan.space)
    keys = {proposal.candidate.key for proposal in drawn}
    beside = screening(plan).choose(drawn, hand.ledger, 0).scores
    alone = screening(allocated).choose(drawn, hand.ledger, 0).scores
    without = screening(allocated).choose([], hand.ledger, 0)
    hand.close()
    assert len(beside) >= 8
    assert set(alone) == keys
    assert len(without.scores) >= 8
    assert without.chosen is not None


def test_what_groups_do_alone_counts_beside_the_score(folder: RunFolder) -> None:
    plan = toy.make_plan()

    class Blind(ToyScore):
        def __call__(self, candidate: Candidate) -> float:
            return 0.0

    def alone(name: str, kept: int) -> float:
        return WEIGHTS[name] * (1.0 - kept / toy.SIZES[name]) ** 2

    hand = toy.Hand(folder, plan)
    rivals = [c for c in (project(r, plan) for r in random_candidates(plan, 4)) if c]
    rivals.sort(key=damage, reverse=True)
    found = [
        Screening(plan, Blind, count=8, sensitivity=scored).best_of(rivals, hand.ledger)
        for scored in (None, alone)
    ]
    hand.close()
    assert found == [(rivals[0], 0.0), (rivals[-1], 0.0)]  # the first, where nothing tells


def test_the_forecast_learns_what_groups_do_alone() -> None:
    plan = toy.make_plan()
    rng = np.random.default_rng(0)
    scored = [
        replace(known_of(plan, c), score=0.0, log_sensitivity=float(rng.normal()))
        for c in random_candidates(plan, 30)
    ]
    targets = [math.exp(0.5 * k.log_sensitivity) for k in scored]
    posteriors = Surrogate(plan, scored[:20], targets[:20], 5.0)(scored[20:])
    assert np.corrcoef([b.median for b in posteriors], targets[20:])[0, 1] > 0.9


def test_a_seed_is_settled_when_its_turn_comes_and_keeps_its_origin(folder: RunFolder) -> None:
    plan = toy.make_plan()
    first, rival = (project(r, plan) for r in random_candidates(plan, 2, seed=3))
    assert first is not None
    assert rival is not None
    seed = Proposal(first, "seed:least-0", alternatives=(rival,))
    hand = toy.Hand(folder, plan, [seed], screening(plan), accuracy)
    [trained] = hand.play(1)
    hand.close()
    assert damage(trained) == min(damage(first), damage(rival))
    [record] = folder.records()
    assert (record.origin, record.candidate) == ("seed:least-0", trained)
    assert record.times["screen_s"] > 0.0
    assert folder.state().screening["proposals"] == 2


def test_a_seed_that_cannot_be_scored_is_trained_as_it_is(folder: RunFolder) -> None:
    plan = toy.make_plan()
    first = project(random_candidates(plan, 1)[0], plan)
    assert first is not None
    broken = screening(plan, ToyScore(lambda candidate: True))
    hand = toy.Hand(folder, plan, [Proposal(first, "seed:least-0", alternatives=())], broken)
    assert hand.play(1) == [first]
    hand.close()


def test_the_training_set_is_bounded_and_the_forecast_takes_over(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class Watched(Surrogate):
        def __init__(
            self,
            plan: Plan,
            scored: Sequence[ScoredCandidate],
            targets: Sequence[float],
            worst: float,
        ) -> None:
            sizes.append(len(scored))
            super().__init__(plan, scored, targets, worst)

    module = sys.modules[Screening.__module__]
    monkeypatch.setattr(module, "Surrogate", Watched)
    monkeypatch.setattr(module, "LATEST", ENOUGH + 2)
    hand = play(folder, ENOUGH + 8)
    assert sizes[0] == ENOUGH
    assert len(sizes) == 8
    assert max(sizes) <= ENOUGH + 2 + len(hand.ledger.front().members)


class Small(Stripes):
    dense_epochs = 0


@pytest.fixture(scope="module")
def scored() -> tuple[RepairScore, list[str]]:
    torch.manual_seed(0)
    task = Small()
    dense = task.build_model().eval()
    graph = trace(dense, task.example_input())
    reestimate_batchnorm(dense, task.train_loader(1), forward=task.loss)
    calibration = calibrate(dense, task.train_loader(0), forward=task.loss)
    return RepairScore(task, dense, graph, calibration), list(graph.sizes())


def test_the_whole_model_scores_best_and_more_removal_scores_worse(
    scored: tuple[RepairScore, list[str]],
) -> None:
    score, names = scored
    values = [score(Candidate(Architecture(dict.fromkeys(names, n)))) for n in (16, 12, 4)]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_repair_lowers_the_score_and_scores_are_repeatable(
    scored: tuple[RepairScore, list[str]],
) -> None:
    score, names = scored
    candidate = Candidate(Architecture(dict.fromkeys(names, 8)), Selection("obs"))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert score(candidate) == score(candidate)
    assert score(candidate) < score(replace(candidate, selection=Selection("obs", repair=False)))
    assert score(candidate) == score(replace(candidate, recovery=Recovery(lr=0.2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert score.samples > 0


def test_heads_take_evenly_and_leave_ragged_batches_whole() -> None:
    batches = [(torch.zeros(50, 2), torch.zeros(50)), (torch.zeros(8, 2), torch.zeros(8))]
    assert [len(x) for x, _ in heads(batches, 20)] == [10, 8]
    ragged: list[list[Tensor]] = [[torch.zeros(3, 8, 8), torch.zeros(3, 9, 9), torch.zeros(5, 4)]]
    assert [tuple(x.shape) for x in heads(ragged, 1)[0]] == [(3, 8, 8), (3, 9, 9), (5, 4)]


def test_budget_limits_are_respected_by_every_trained_proposal(folder: RunFolder) -> None:
    hand = play(folder, 12, budget=Budget.parse({"macs": "30%"}))
    for record in hand.ledger.records.values():
        if record.state == "complete":
            assert record.predicted is not None
            assert hand.plan.allows(record.predicted)
