import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from autoprune._search.state.failure import LONGEST
from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.interrupts import Interrupts, Terminated
from autoprune._search.trials.scheduler import Rungs, RungScheduler, error_of, objective_end
from autoprune.budget import Budget
from autoprune.candidate import Candidate
from autoprune.pareto import Objective
from autoprune.record import TrialRecord
from autoprune.schedule import Schedule

CONTINUE, PAUSE, STOP = TrialScheduler.CONTINUE, TrialScheduler.PAUSE, TrialScheduler.STOP


def test_half_goes_on_by_rank_and_the_rest_waits() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    points = [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)]  # each dominates the next
    for number, point in enumerate(points):
        rungs.report(0, number, point)
    assert [rungs.may_go_on(0, n) for n in range(4)] == [True, True, False, False]


def test_more_trials_bring_a_waiting_one_among_the_best() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    rungs.report(0, 0, (0.1, 0.1))
    rungs.report(0, 1, (0.2, 0.2))
    assert not rungs.may_go_on(0, 1)
    rungs.report(0, 2, (0.3, 0.3))
    assert rungs.may_go_on(0, 1)


def test_the_first_at_a_rung_goes_on() -> None:
    rungs = Rungs(0.0, 1.0)
    rungs.report(1, 5, (0.9, 0.9))
    assert rungs.may_go_on(1, 5)


def test_rungs_are_apart() -> None:
    rungs = Rungs(0.0, 1.0, ranges=1)
    rungs.report(0, 0, (0.1, 0.1))
    rungs.report(0, 1, (0.2, 0.2))
    rungs.report(1, 1, (0.2, 0.2))
    assert (rungs.may_go_on(0, 1), rungs.may_go_on(1, 1)) == (False, True)


def test_the_only_trial_of_a_cost_range_always_goes_on() -> None:
    rungs = Rungs(0.0, 1.0, ranges=4)
    rungs.report(0, 0, (0.9, 0.95))  # dear, and worse than all the cheap ones
    for number in range(1, 8):
        rungs.report(0, number, (0.1 + number / 100, 0.1 + number / 1000))
    assert rungs.may_go_on(0, 0)
    assert not rungs.may_go_on(0, 7)


def test_within_a_rank_the_lonely_go_on() -> None:
    rungs = Rungs(0.0, 10.0, ranges=1)
    # one front; 2 sits close between its neighbors, 3 is far from them
    for number, point in enumerate([(0, 10), (10, 0), (1, 8.9), (5, 4), (0.9, 9), (1.1, 8.8)]):
        rungs.report(0, number, point)
    assert rungs.may_go_on(0, 3)
    assert not rungs.may_go_on(0, 2)


def test_decisions_do_not_depend_on_the_order_of_arrival() -> None:
    points = {n: (random.Random(n).random(), random.Random(-n - 1).random()) for n in range(9)}
    answers = set()
    for order in itertools.islice(itertools.permutations(points), 0, 4000, 501):
        rungs = Rungs(0.0, 1.0)
        for number in order:
            rungs.report(0, number, points[number])
        answers.add(tuple(rungs.may_go_on(0, n) for n in sorted(points)))
    assert len(answers) == 1


@dataclass
class FakeSearcher:
    """What the scheduler asks and tells; the trial "t3" has the number 3."""

    records: dict[int, TrialRecord] = field(default_factory=dict)
    origin: str = "tpe"
    schedule: Schedule = field(default_factory=Schedule)
    late: bool = False
    has_room: bool = True
    is_idle: bool = False
    may_start: bool = True
    closed: bool = False
    told: list[str] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def ledger(self) -> Any:
        return self

    @property
    def running(self) -> Any:
        halves = toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5))
        candidate = Candidate.planned(halves, toy.SIZES, schedule=self.schedule)
        made = SimpleNamespace(
            candidate=candidate, predicted=toy.price(candidate.architecture), origin=self.origin
        )
        return dict.fromkeys(range(9), made)

    trial_timeout_s, overtime_s = 60.0, -1.0

    def number(self, trial_id: str) -> int:
        return int(trial_id[1:])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append(trial_id)

    def set_waiting(self, trial_id: str, waiting: bool) -> None:
        (self.waiting.add if waiting else self.waiting.discard)(trial_id)

    def note_error(self, trial_id: str, reason: str) -> None:
        self.errors[trial_id] = reason

    def close(self) -> None:
        self.closed = True


class FakeController:
    """No live trials, and none that could start; notes which are stopped."""

    def __init__(self) -> None:
        self.stopped: list[Any] = []

    def get_live_trials(self) -> list[Any]:
        return []

    def get_trials(self) -> list[Any]:
        return []

    def stop_trial(self, trial: Any) -> None:
        self.stopped.append(trial)


def made(searcher: Any, interrupts: Interrupts | None = None) -> RungScheduler:
    searcher_may_start = searcher.may_start
    searcher.may_start = lambda: searcher_may_start
    return RungScheduler(toy.make_plan(epochs=4.0, rungs=2), searcher, interrupts)


def trial(number: int, status: str = Trial.RUNNING) -> Any:
    return SimpleNamespace(trial_id=f"t{number}", status=status, error_file=None)


def report(
    scheduler: RungScheduler, number: int, accuracy: float, rung: int = 0, **more: Any
) -> str:
    epochs = 4.0 / 2 ** (2 - rung)
    history = tuple({"epoch": epochs, "accuracy": accuracy} for _ in range(rung + 1))
    found = Report(epochs, {"accuracy": accuracy}, history, **more)
    return scheduler.on_trial_result(FakeController(), trial(number), {REPORT: found})


def test_a_poor_trial_is_paused_at_its_rung_and_told_to_the_searcher() -> None:
    searcher = FakeSearcher()
    scheduler = made(searcher)
    assert [report(scheduler, n, 0.9 - n / 10) for n in range(2)] == [CONTINUE, PAUSE]
    assert searcher.told == ["t1"]
    assert report(scheduler, 2, 0.1, rung=1) == CONTINUE  # the first at the next rung


@pytest.mark.parametrize("origin", ["seed:uniform-0", "baseline:random-1", "baseline:scratch"])
def test_baselines_are_trained_to_their_end(origin: str) -> None:
    scheduler = made(FakeSearcher(origin=origin))
    assert [report(scheduler, n, 0.9 - n / 10) for n in range(3)] == [CONTINUE] * 3


def test_a_trial_that_ended_or_failed_is_no_longer_compared() -> None:
    scheduler = made(FakeSearcher())
    report(scheduler, 0, 0.9)
    assert report(scheduler, 1, 0.1, error="broke") == CONTINUE
    assert report(scheduler, 2, 0.1, finished=True) == CONTINUE


def test_trials_meet_after_equal_training_since_their_last_removal() -> None:
    """4 epochs, rungs at 1 and 2: what is pruned until 0.5 (epoch 2) has had 1 epoch at epoch 3."""
    searcher = FakeSearcher()
    scheduler = made(searcher)
    assert report(scheduler, 0, 0.6) == CONTINUE  # one-shot, at epoch 1
    assert report(scheduler, 1, 0.8, rung=1) == CONTINUE  # one-shot, at epoch 2
    searcher.schedule = Schedule("cubic", begin=0.0, end=0.5, steps=4)
    assert gradual(scheduler, 2, 0.7, epochs=3.0) == CONTINUE  # better than 0.6 after 1 epoch
    assert gradual(scheduler, 3, 0.5, epochs=3.0) == PAUSE
    assert gradual(scheduler, 4, 0.1, epochs=1.0) == CONTINUE  # still being pruned
    searcher.schedule = Schedule()
    assert report(scheduler, 5, 0.55) == PAUSE  # 0.7 and 0.6 are the better half of four


def gradual(scheduler: RungScheduler, number: int, accuracy: float, epochs: float) -> str:
    entry = {"epoch": epochs, "accuracy": accuracy}
    found = Report(epochs, {"accuracy": accuracy}, (entry,))
    return scheduler.on_trial_result(FakeController(), trial(number), {REPORT: found})


def test_once_it_is_late_every_trial_stops_at_its_next_report() -> None:
    scheduler = made(FakeSearcher(late=True))
    assert report(scheduler, 0, 0.9) == STOP
    assert report(scheduler, 0, 0.9, finished=True) == CONTINUE


def test_a_paused_trial_goes_on_when_it_is_among_the_best_and_there_is_room() -> None:
    searcher = FakeSearcher()
    scheduler, paused = made(searcher), trial(1)
    report(scheduler, 0, 0.9)
    found = Report(1.0, {"accuracy": 0.8}, ({"epoch": 1.0, "accuracy": 0.8},))
    assert scheduler.on_trial_result(FakeController(), paused, {REPORT: found}) == PAUSE
    paused.status = Trial.PAUSED
    assert scheduler.choose_trial_to_run(FakeController()) is None
    assert searcher.waiting == {"t1"}
    report(scheduler, 2, 0.1)  # a worse one makes it the better half
    searcher.has_room = False
    assert scheduler.choose_trial_to_run(FakeController()) is None
    searcher.has_room = True
    assert scheduler.choose_trial_to_run(FakeController()) is paused
    assert searcher.waiting == set()


@pytest.mark.parametrize(
    ("is_idle", "may_start", "stopped"),
    [(True, False, True), (False, False, False), (True, True, False)],
)
def test_what_is_paused_when_nothing_else_is_left_is_stopped(
    is_idle: bool, may_start: bool, stopped: bool
) -> None:
    searcher = FakeSearcher(is_idle=is_idle, may_start=may_start)
    scheduler, controller = made(searcher), FakeController()
    report(scheduler, 0, 0.9)
    report(scheduler, 1, 0.1)
    scheduler.choose_trial_to_run(controller)
    assert [it.trial_id for it in controller.stopped] == (["t1"] if stopped else [])


def test_a_trial_that_failed_or_was_removed_is_not_waited_for() -> None:
    searcher = FakeSearcher(is_idle=True, may_start=False)
    scheduler, controller = made(searcher), FakeController()
    for number in range(3):
        report(scheduler, number, 0.9 - number / 10)
    scheduler.on_trial_error(controller, trial(1))
    scheduler.on_trial_remove(controller, trial(2))
    scheduler.choose_trial_to_run(controller)
    assert controller.stopped == []
    assert searcher.errors == {"t1": "the worker process died"}


def test_an_interrupted_search_starts_nothing_and_ends_when_it_is_idle() -> None:
    interrupts, searcher = Interrupts(lambda: 0.0), FakeSearcher()
    scheduler = made(searcher, interrupts)
    interrupts.ask(15)
    assert report(scheduler, 0, 0.9) == CONTINUE
    assert scheduler.choose_trial_to_run(FakeController()) is None
    assert searcher.closed
    searcher.is_idle = True
    with pytest.raises(Terminated):
        scheduler.choose_trial_to_run(FakeController())


def test_rungs_know_the_trials_of_earlier_sessions() -> None:
    candidate = Candidate(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))
    history = ({"epoch": 1.0, "accuracy": 0.9},)
    known = TrialRecord(
        0, candidate, "stopped", 0, history=history, predicted=toy.price(candidate.architecture)
    )
    assert report(made(FakeSearcher()), 1, 0.5) == CONTINUE
    assert report(made(FakeSearcher({0: known})), 1, 0.5) == PAUSE


def test_trials_of_an_earlier_run_with_other_rungs_are_not_compared_at_this_ones() -> None:
    """Their first evaluation was later: at the end of twice the training."""
    candidate = Candidate(toy.FITTED.at_ratios(dict.fromkeys(toy.SIZES, 0.5)))
    cost = toy.price(candidate.architecture)
    for epochs, answer in ((1.5, CONTINUE), (1.0, PAUSE)):
        history = ({"epoch": epochs, "accuracy": 0.9},)
        known = TrialRecord(
            0, candidate, "complete", 0, history=history, predicted=cost, origin="from_run:3 tpe"
        )
        assert known.is_reused
        assert report(made(FakeSearcher({0: known})), 1, 0.5) == answer


def test_cost_ranges_end_at_the_budget() -> None:
    """Below a low limit there are several of them."""
    plan = toy.make_plan(budget=Budget.parse({"macs": "25%"}))
    rungs = RungScheduler(plan, FakeSearcher())._rungs  # type: ignore[arg-type]
    least, most = plan.smallest().get("macs"), 0.25 * toy.DENSE.get("macs")
    points = [(0.0, least + part * (most - least)) for part in (0.1, 0.3, 0.6, 0.9)]
    assert [rungs._range(point) for point in points] == [0, 1, 2, 3]
    free = RungScheduler(toy.make_plan(budget=Budget.parse({"params": "90%"})), FakeSearcher())  # type: ignore[arg-type]
    assert free._rungs._range((0.0, toy.DENSE.get("macs"))) == 3


def test_an_objective_ends_at_the_smallest_models_cost_or_at_0() -> None:
    plan = toy.make_plan()
    # 80 % off 16, 32, 64 leaves 4, 6, 12
    assert objective_end(plan, Objective("macs")) == 4 * 3 + 4 * 6 + 6 * 12
    assert objective_end(plan, Objective("accuracy", "maximize")) == 0.0


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Failure # 1 (occurred)\nray::Trial() RuntimeError: x\n", "ray::Trial() RuntimeError: x"),
        ("Failure # 1\nThe actor DIED unexpectedly\n", "the worker process died"),
        (
            "Failure # 1\nThe actor died because of an error raised in its creation task, ray\n"
            "  File ...\nautoprune.errors.TaskError: Mine.build_model failed: KeyError: 'x'\n\n",
            "the worker could not start: TaskError: Mine.build_model failed: KeyError: 'x'",
        ),
        ("Failure # 1\nOutOfMemoryError\n", "out of memory: the worker process was killed"),
        (
            "task killed: node is running out of memory",
            "out of memory: the worker process was killed",
        ),
        ("Failure # 1\n\n", "the worker was lost"),
    ],
)
def test_why_tune_gave_a_trial_up(tmp_path: Path, text: str, first: str) -> None:
    (tmp_path / "error.txt").write_text(text)
    found = error_of(SimpleNamespace(error_file=str(tmp_path / "error.txt"))).splitlines()
    assert found[0] == first
    assert found[1:] == [line for line in text.rstrip().splitlines() if "Failure #" not in line]


def test_an_error_file_that_is_not_there_or_endless(tmp_path: Path) -> None:
    for missing in (None, str(tmp_path / "none.txt")):
        assert error_of(SimpleNamespace(error_file=missing)) == "the worker process died"
    (tmp_path / "long.txt").write_text("boom\n" + "x" * 100_000)
    found = error_of(SimpleNamespace(error_file=str(tmp_path / "long.txt")))
    assert found.startswith("boom\nboom\nxxx")
    assert len(found) == LONGEST + len("boom\n")
