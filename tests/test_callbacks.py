"""Callbacks: when they are called, and what their errors do."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import small_run

import autoprune
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.callbacks import Callback, Callbacks, MLflow, TensorBoard, trackers
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import SearchPlan

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
RECORD = TrialRecord(
    3,
    Candidate(Architecture()),
    "complete",
    seed=0,
    metrics={"accuracy": 0.75},
    predicted=Cost(macs=40, params=7),
)
FRONT = ParetoFront(OBJECTIVES, (RECORD,), (0.5, 100.0))
CONFIG = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}})
SPACE = FittedSpace.of(SearchSpace(), {"conv": 8})
PLAN = SearchPlan(OBJECTIVES, (0.5, 100.0), {"macs": 50.0}, (), SPACE, Cost(macs=100))


class Noted(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_start(self, config, plan, folder) -> None:
        self.calls.append(("start", config.task, plan.reference, folder.name))

    def on_trial(self, record, front) -> None:
        self.calls.append(("trial", record.number, len(front)))

    def on_end(self, front, folder) -> None:
        self.calls.append(("end", len(front), folder.name))


class Broken(Callback):
    def on_trial(self, record, front) -> None:
        raise RuntimeError("no disk")


def tell(callback: Callback, folder: Path) -> None:
    callback.on_start(CONFIG, PLAN, folder)
    callback.on_trial(RECORD, FRONT)
    callback.on_end(FRONT, folder)


def test_an_error_is_logged_and_the_others_are_told(tmp_path: Path, caplog) -> None:
    noted = Noted()
    with caplog.at_level(logging.WARNING, logger="autoprune"):
        tell(Callbacks([Broken(), noted]), tmp_path)
    assert noted.calls == [
        ("start", "digits", (0.5, 100.0), tmp_path.name),
        ("trial", 3, 1),
        ("end", 1, tmp_path.name),
    ]
    assert "Broken: RuntimeError: no disk" in caplog.text


def test_tensorboard_has_a_curve_for_every_metric_and_cost(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(TensorBoard(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert found["metric/accuracy"] == [(3, 0.75)]
    assert found["predicted/macs"] == [(3, 40.0)]
    # (0.75 - 0.5) of the metric times (100 - 40) of the cost
    assert found["front/hypervolume"] == [(3, pytest.approx(15.0))]


def test_mlflow_has_parameters_metrics_and_files(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "tracking").as_uri())
    (tmp_path / "front.json").write_text("{}")
    tell(MLflow(), tmp_path)
    (run,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert run.data.params["search.trials"] == "30"
    assert run.data.metrics["metric/accuracy"] == 0.75
    assert run.info.status == "FINISHED"
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "front.json").is_file()


def test_mlflow_ends_what_was_interrupted_and_only_that(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "tracking").as_uri())
    tracker, folder = MLflow(), tmp_path / "whole" / "starts" / "small"
    with mlflow.start_run(run_name="the user's"):
        tracker.on_stop(folder)  # not begun: an error in the preparation
        assert mlflow.active_run().info.run_name == "the user's"
    tracker.on_start(CONFIG, PLAN, folder)
    tracker.on_stop(folder)
    runs = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert {run.info.run_name: run.info.status for run in runs} == {
        "the user's": "FINISHED",
        "whole/small": "FAILED",
    }


def test_mlflow_has_no_run_of_a_finished_search(tmp_path: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "tracking").as_uri())
    (tmp_path / "front.json").write_text("{}")
    tracker = MLflow()
    tracker.on_trial(RECORD, FRONT)
    tracker.on_end(FRONT, tmp_path)
    assert mlflow.active_run() is None
    assert not mlflow.search_runs(output_format="list", search_all_experiments=True)


def test_a_finished_search_that_is_resumed_tells_nothing(tmp_path: Path) -> None:
    noted, run = Noted(), small_run.make(tmp_path)
    autoprune.resume(run.path, task=small_run.Pair(), callbacks=[noted])
    assert noted.calls == []


def test_tensorboard_is_closed_where_it_was_opened(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = TensorBoard()
    tracker.on_stop(tmp_path)
    tracker.on_start(CONFIG, PLAN, tmp_path)
    tracker.on_stop(tmp_path)
    assert list((tmp_path / "tensorboard").iterdir())


def test_callbacks_are_told_of_a_search_that_fails(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stopped = []

    class Listening(Callback):
        def on_stop(self, folder: Path) -> None:
            stopped.append(folder)

    monkeypatch.setattr("autoprune._search.run.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        autoprune.search(
            "digits", budget={"macs": "50%"}, output=tmp_path / "x", callbacks=[Listening()]
        )
    assert stopped == [tmp_path / "x"]


def test_a_missing_package_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"mlflow is not installed · pip install 'autoprune\[mlf"):
        trackers(["mlflow"])
