"""What becomes of a trial when it ends."""

from __future__ import annotations

import math
import time

import pytest
import toy

from autoprune._search.state.failure import LONGEST
from autoprune._search.state.messages import Report
from autoprune._search.state.running import Running
from autoprune.record import SCRATCH


def running(last: Report, **changes: object) -> Running:
    candidate = toy.FITTED.candidate({"recovery.lr": 0.05})
    values: dict[str, object] = {"origin": "tpe", "started": time.monotonic(), **changes}
    return Running(3, candidate, toy.DENSE, last=last, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("report", "error", "state", "artifact"),
    [
        (Report(4.0, finished=True, artifact="models/3"), None, "complete", "models/3"),
        (Report(2.0), None, "stopped", None),
        (Report(4.0, finished=True, artifact="models/3"), "the worker died", "failed", None),
        (Report(2.0, error="E: a"), None, "failed", None),
    ],
)
def test_the_state_is_that_of_the_last_report_unless_it_failed(
    report: Report, error: str | None, state: str, artifact: str | None
) -> None:
    record = running(report).ended(7, error)
    assert (record.state, record.artifact) == (state, artifact)
    assert (record.number, record.seed, record.epochs) == (3, 7, report.epochs)
    assert record.error == (error or report.error)


def test_the_reason_from_outside_counts_more_than_the_reported_one_and_is_bounded() -> None:
    record = running(Report(error="E: a")).ended(0, "x" * (2 * LONGEST))
    assert record.error is not None
    assert record.error.startswith("xxx")
    assert len(record.error) < LONGEST


def test_what_is_not_finite_is_left_out() -> None:
    history = ({"epoch": 1.0, "loss": math.nan}, {"epoch": 2.0, "loss": 0.5})
    record = running(Report(2.0, {"accuracy": 0.5, "f1": math.inf}, history)).ended(0)
    assert record.metrics == {"accuracy": 0.5}
    assert record.history == ({"epoch": 1.0}, {"epoch": 2.0, "loss": 0.5})


def test_a_failed_trial_has_no_metrics_but_its_history() -> None:
    history = ({"epoch": 1.0},)
    record = running(Report(1.0, {"accuracy": 0.5}, history, error="E: a")).ended(0)
    assert record.metrics == {}
    assert record.history == history


def test_its_times_are_those_of_choosing_training_and_all_since_its_start() -> None:
    trial = running(
        Report(times={"train_s": 5.0}), started=time.monotonic() - 60.0, times={"screen_s": 2.0}
    )
    times = trial.ended(0).times
    assert times.keys() == {"train_s", "screen_s", "wall_s"}
    assert (times["train_s"], times["screen_s"]) == (5.0, 2.0)
    assert 60.0 <= times["wall_s"] < 90.0


@pytest.mark.parametrize(("origin", "counts"), [("tpe", True), (SCRATCH, False)])
def test_baselines_on_top_do_not_count(origin: str, counts: bool) -> None:
    assert running(Report(), origin=origin).is_counted is counts
