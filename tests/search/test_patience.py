"""A search that stops when its front no longer grows, and more trials for one that has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import toy

from autoprune._search.plan import Limits
from autoprune._search.state.ledger import Ledger
from autoprune.candidate import Candidate
from autoprune.errors import UsageError
from autoprune.extension import extend
from autoprune.store import RunFolder, RunState

CONFIG = {"task": "digits", "budget": {"macs": "50%"}, "search": {"trials": 30, "epochs": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, {})


def flat(candidate: Candidate) -> float:
    """All models are equally bad but the first of each cost: hardly any growth."""
    del candidate
    return 0.5


def test_a_search_without_progress_ends_before_its_trials(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=60, patience=5), sampler="random")
    hand = toy.Hand(folder, plan, accuracy=flat)
    ended = 0
    while (suggested := hand.suggest()) is not None:
        hand.complete(suggested[0], flat(suggested[1]))
        ended += 1
    hand.close()
    assert 5 < ended < 60
    assert hand.ledger.ended_by == "no progress in 5 trials"
    assert folder.state() is not None
    assert folder.state().ended_by == "no progress in 5 trials"


def test_more_trials_begin_the_patience_again(folder: RunFolder) -> None:
    plan = toy.make_plan(limits=Limits(trials=60, patience=5), sampler="random")
    hand = toy.Hand(folder, plan, accuracy=flat)
    while (suggested := hand.suggest()) is not None:
        hand.complete(suggested[0], flat(suggested[1]))
    hand.close()
    again = Ledger(plan, folder)
    assert again.may_start()
    assert not again.over()


def ended_run(folder: RunFolder, trials: int) -> None:
    plan = toy.make_plan(limits=Limits(trials=trials), sampler="random")
    hand = toy.Hand(folder, plan)
    hand.play(trials)
    hand.close()
    folder.save_state(RunState("done", elapsed_s=120.0, ended_by=f"{trials} trials"))


@pytest.mark.parametrize(("asked", "total"), [("+20", 24), (30, 30), ("30", 30)])
def test_trials_are_a_total_or_more(folder: RunFolder, asked: int | str, total: int) -> None:
    ended_run(folder, 4)
    config = extend(folder, asked, None)
    assert (config.search.trials, config.search.minutes) == (total, None)
    assert folder.config.search.trials == total
    state = folder.state()
    assert state is not None
    assert (state.phase, state.ended_by, state.elapsed_s) == ("search", "", 120.0)


def test_minutes_alone_allow_trials_enough(folder: RunFolder) -> None:
    ended_run(folder, 4)  # 2 a minute
    config = extend(folder, None, "+10")
    assert config.search.minutes == 12.0
    assert config.search.trials == max(30, 4 + 2 * 2 * 10)


def test_a_limit_on_epochs_is_raised_with_the_trials(folder: RunFolder) -> None:
    ended_run(folder, 4)
    config = folder.config
    limited = config.search.model_copy(update={"total_epochs": 16.0})
    folder.save_config(config.model_copy(update={"search": limited}))
    spent = sum(record.epochs for record in folder.records())
    assert extend(folder, "+3", None).search.total_epochs == spent + 3 * 2


@pytest.mark.parametrize(
    ("trials", "minutes", "message"),
    [
        ("4", None, r"trials must be more than the 4 there were, got '4' · write \+20"),
        ("more", None, r"trials must be a number such as 50, or \+20"),
        ("+1.5", None, "trials must be a whole number"),
        (None, "1", "minutes must be more than the 2 there were"),
    ],
)
def test_what_adds_nothing_is_refused(
    folder: RunFolder, trials: str | None, minutes: str | None, message: str
) -> None:
    ended_run(folder, 4)
    before = folder.config
    with pytest.raises(UsageError, match=message):
        extend(folder, trials, minutes)
    assert folder.config == before


def test_trials_of_an_earlier_run_are_not_counted(folder: RunFolder) -> None:
    ended_run(folder, 4)
    for record in folder.records():
        folder.append(replace(record, origin=f"from_run:{record.number} {record.origin}"))
    ledger = Ledger(toy.make_plan(limits=Limits(trials=2)), folder)
    assert (ledger.done, ledger.spent_epochs) == (0, 0.0)
    assert ledger.may_start()
    assert len(ledger.front()) > 0
