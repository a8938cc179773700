"""More trials or more time for a search that has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import StoreError, UsageError
from autoprune.extension import Amount, extend
from autoprune.record import TrialRecord
from autoprune.store import RunFolder, RunState

SEARCH = {"trials": 6, "epochs": 2.0, "patience": 0}


def record(number: int, **more: object) -> TrialRecord:
    known = {"state": "complete", "seed": 0, "epochs": 1.5, **more}
    return TrialRecord(number, Candidate(Architecture()), **known)  # type: ignore[arg-type]


def run_of(folder: Path, elapsed_s: float = 120.0, **search: object) -> RunFolder:
    """Four trials that count, one over the budget, one baseline; after two minutes."""
    config = {"task": "digits", "budget": {"macs": "50%"}, "search": {**SEARCH, **search}}
    run = RunFolder.create(folder / "run", config, {})
    for number in range(4):
        run.append(record(number, state="stopped" if number == 3 else "complete"))
    run.append(record(4, state="infeasible", epochs=0.0))
    run.append(record(5, origin="baseline:uniform-0"))
    run.save_state(RunState("done", elapsed_s, {"proposals": 3.0}, "6 trials"))
    return run


@pytest.mark.parametrize(
    ("trials", "minutes", "wanted"),
    [
        ("+20", None, (24, None)),
        (" +20 ", None, (24, None)),
        (20, None, (20, None)),
        ("20.0", None, (20, None)),
        (10, "+3", (10, 5.0)),
        (10, 2.5, (10, 2.5)),
        (None, "+3", (16, 5.0)),  # two trials a minute, twice as many in three: 4 + 12
        (None, 2.25, (6, 2.25)),  # 4 + 1, but six were asked for in the beginning
    ],
)
def test_limits_are_new_totals_or_more(
    tmp_path: Path, trials: Amount | None, minutes: Amount | None, wanted: tuple[int, float | None]
) -> None:
    run = run_of(tmp_path)
    extended = extend(run, trials, minutes)
    assert (extended.search.trials, extended.search.minutes) == wanted
    assert run.config == extended
    assert run.state() == RunState("search", 120.0, {"proposals": 3.0}, "", lines=6)


def test_an_interrupted_search_may_end_with_the_trials_it_has(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with pytest.raises(UsageError, match="trials must be more than the 4 there were, got 4"):
        extend(run, 4, None)
    run.save_state(RunState("search", 120.0))
    with pytest.raises(UsageError, match="trials must be more than the 4 there were, got 3"):
        extend(run, 3, None)
    assert extend(run, 4, None).search.trials == 4
    assert len(run.records()) == 6


def test_what_is_not_said_is_no_limit_any_more(tmp_path: Path) -> None:
    run = run_of(tmp_path, minutes=2.0)
    assert extend(run, "+1", None).search.minutes is None


def test_a_limit_on_epochs_grows_with_the_trials(tmp_path: Path) -> None:
    run = run_of(tmp_path, total_epochs=12.0)
    # four trials took 1.5 epochs each, six more may take two each
    assert extend(run, 10, None).search.total_epochs == 4 * 1.5 + 6 * 2.0


def test_a_run_without_a_state_has_taken_no_time(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (run.path / "state.json").unlink()
    # a trial a minute is assumed: 4 + 2 x 3
    assert extend(run, None, "+3").search.trials == 10
    assert run.state() == RunState("search")


@pytest.mark.parametrize(
    ("trials", "minutes", "says"),
    [
        (4, None, "trials must be more than the 4 there were, got 4 · write +20 for 20 more"),
        ("+0", None, "trials must be more than the 4 there were, got '+0' · write +20 for 20 more"),
        (None, 1.9, "minutes must be more than the 2 there were, got 1.9 · write +20 for 20 more"),
        ("+1.5", None, "trials must be a whole number, got '+1.5'"),
        ("many", None, "trials must be a number such as 50, or +20 for more, got 'many'"),
        ("-5", None, "trials must be a number such as 50, or +20 for more, got '-5'"),
        ("1e3", None, "trials must be a number such as 50, or +20 for more, got '1e3'"),
        (None, float("nan"), "minutes must be a number such as 50, or +20 for more, got nan"),
        (None, float("inf"), "minutes must be a number such as 50, or +20 for more, got inf"),
        (2_000_000, None, "trials must be at most 1000000 in all, got 2000000"),
        (None, "+600000", "minutes must be at most 525600 in all, got '+600000'"),
        ("9" * 400, None, f"trials must be at most 1000000 in all, got '{'9' * 400}'"),
        (None, "", "minutes must be a number such as 50, or +20 for more, got ''"),
    ],
)
def test_what_adds_nothing_is_refused_and_changes_nothing(
    tmp_path: Path, trials: Amount | None, minutes: Amount | None, says: str
) -> None:
    run = run_of(tmp_path)
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(UsageError) as caught:
        extend(run, trials, minutes)
    assert str(caught.value) == says
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_a_fast_search_may_have_no_more_trials_than_a_configuration_holds(tmp_path: Path) -> None:
    run = run_of(tmp_path, elapsed_s=0.06)
    assert extend(run, None, 525_600).search.trials == 1_000_000
    assert run.config.search.trials == 1_000_000  # it can be read again


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with run.writing(), pytest.raises(StoreError, match="being written by another process"):
        extend(RunFolder.open(run.path), "+2", None)
    assert run.state() == RunState("done", 120.0, {"proposals": 3.0}, "6 trials", lines=6)
