"""How long the rest of a search takes."""

from __future__ import annotations

import pytest
import toy

from autoprune._search.plan import Limits
from autoprune._search.state import pace as module
from autoprune._search.state.pace import Pace, total_trial_s, usual_trial_s
from autoprune.record import CONVERTED, TrialRecord


def pace_of(patch: pytest.MonkeyPatch, *ends: float, now: float) -> Pace:
    pace = Pace()
    for at in ends:
        patch.setattr(module.time, "monotonic", lambda at=at: at)
        pace.note()
    patch.setattr(module.time, "monotonic", lambda: now)
    return pace


def test_nothing_is_known_before_three_trials_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = pace_of(monkeypatch, 100.0, 101.0, now=200.0)
    assert pace.left_s(Limits(trials=10), done=2, epochs=4.0, deadline_s=None) is None
    assert pace.left_s(Limits(trials=10), done=1, epochs=4.0, deadline_s=30.0) == 30.0


@pytest.mark.parametrize(
    ("limits", "deadline_s", "left"),
    [
        (Limits(trials=10), None, 140.0),  # 7 more at 20 s
        (Limits(trials=10), 50.0, 50.0),
        (Limits(trials=10), -5.0, 0.0),
        (Limits(trials=10, total_epochs=24.0), None, 60.0),  # 12 epochs are 3 more
        (Limits(trials=2), None, 0.0),
    ],
)
def test_the_first_limit_at_the_pace_so_far_counts(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, deadline_s: float | None, left: float
) -> None:
    pace = pace_of(monkeypatch, 100.0, 118.0, 135.0, now=140.0)  # two after the first, in 40 s
    assert pace.left_s(limits, done=3, epochs=12.0, deadline_s=deadline_s) == left


def test_epochs_tell_nothing_until_some_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = pace_of(monkeypatch, 0.0, 1.0, 2.0, now=2.0)
    limits = Limits(trials=10, total_epochs=4.0)
    assert pace.left_s(limits, done=0, epochs=0.0, deadline_s=None) == 10.0


def record(wall_s: float, **changes: object) -> TrialRecord:
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    values: dict[str, object] = {"state": "complete", "seed": 0, **changes}
    return TrialRecord(0, candidate, times={"wall_s": wall_s}, **values)  # type: ignore[arg-type]


def test_the_usual_length_is_the_median_of_complete_trials_that_were_trained() -> None:
    assert usual_trial_s([]) == 0.0
    records = [record(seconds) for seconds in (5.0, 1.0, 9.0)]
    others = [record(99.0, state="stopped"), record(0.1, origin=f"{CONVERTED} 1")]
    assert usual_trial_s([*records, *others]) == 5.0
    assert usual_trial_s(records[:2]) == 5.0  # the later of two


def test_the_total_is_of_all_trials() -> None:
    assert total_trial_s([record(5.0), record(1.5, state="failed")]) == 6.5
