import dataclasses

import pytest

from autoprune._search.state.progress import NullProgress, Snapshot


def test_infeasible_and_running_trials_are_not_done() -> None:
    found = Snapshot("search", running=16, complete=1, stopped=2, failed=4, infeasible=8)
    assert found.done == 7


def test_a_snapshot_before_the_first_trial_knows_nothing() -> None:
    found = Snapshot("prepare", "the dense model")
    assert (found.done, found.front, found.hypervolume, found.left_s) == (0, (), None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.phase = "done"  # type: ignore[misc]


def test_no_display_takes_every_state() -> None:
    assert NullProgress().update(Snapshot("done")) is None  # type: ignore[func-returns-value]
