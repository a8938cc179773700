"""A run folder is read as one view, finished or not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from synthetic_run import CONFIG, DENSE, ENVIRONMENT, SIZES, make_run
from views import trial

from autoprune.errors import StoreError
from autoprune.pareto import Objective
from autoprune.report import (
    front_plot,
    terminal,
)
from autoprune.report.data import speedup
from autoprune.report.read import read
from autoprune.store import (
    RunFolder,
)


def test_finished_run_is_read_whole(finished_run, view) -> None:
    assert (view.name, view.task, view.finished) == ("demo", "digits", True)
    assert view.dense.metrics["accuracy"] == DENSE.metrics["accuracy"]
    assert sum(view.states.values()) == len(view.records) == 48
    assert view.states["failed"] == 1
    assert view.groups == SIZES
    assert view.front is not None
    stored = json.loads((finished_run.path / "front.json").read_text())
    assert [r.number for r in view.members] == [m["number"] for m in stored["members"]]
    again = view.retrained[0]
    assert again.number == stored["knee"]
    assert (again.test["accuracy"].mean, again.test["accuracy"].std) == (0.9112, 0.0011)
    found = speedup(again.dense.measured, again.measured, "latency_ms")
    assert found == pytest.approx(1.5 / view.front.knee.measured.latency_ms)
    assert view.wall_s == 1312.4


def test_sensitivities_are_those_at_half_of_the_width(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=8)
    kept = {"conv1": [1, 4, 12, 16], "single": [8]}
    damage = {"conv1": [0.9, 0.5, 0.1, 0.0], "single": [0.0]}
    run.save_sensitivity({"dense": 0.0, "kept": kept, "damage": damage})
    assert read(run).sensitivity == pytest.approx({"conv1": 0.3})  # 8 is between 4 and 12
    (run.path / "sensitivity.json").unlink()
    assert read(run).sensitivity == {}


def test_running_search_shows_the_front_so_far(tmp_path) -> None:
    view = read(make_run(tmp_path / "run", finished=False))
    assert not view.finished
    assert view.front is not None
    assert [o.to_dict() for o in view.front.objectives] == [
        {"name": "accuracy", "direction": "maximize"},
        {"name": "latency_ms", "direction": "minimize"},
    ]
    assert view.members
    assert view.verdict(view.members[0]).text == "latency not measured"


@pytest.mark.parametrize(
    ("metric", "direction", "best"),
    [
        ("wer", "minimize", 0),
        ("fid", "minimize", 0),
        ("terror_f1", "maximize", 2),
        ("loss", "maximize", 2),  # a task may say so
    ],
)
def test_direction_is_that_of_the_plan_until_there_is_a_front(
    tmp_path, metric, direction, best
) -> None:
    run = make_run(tmp_path / "run", trials=0, finished=False)
    objectives = (Objective(metric, direction), Objective("latency_ms"))
    run.save_plan(replace(run.plan(), objectives=objectives, reference=(1.0, 10.0)))
    for number, value in enumerate((0.1, 0.2, 0.3)):
        run.append(trial(number, 0.0, None, metrics={metric: value}))
    view = read(run)
    assert (view.finished, view.metric) == (False, Objective(metric, direction))
    assert [record.number for record in view.members] == [best]
    text = str(terminal.summary(view))
    assert f"1 model so far, knee trial {best}" in text
    better = "lower is better" in json.dumps(front_plot.fronts(view))
    assert better is (direction == "minimize")


def test_without_a_plan_or_a_front_no_direction_is_guessed(tmp_path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    (run.path / "plan.json").unlink()
    view = read(run)
    assert (view.front, view.metric, view.members) == (None, None, ())
    assert len(view.records) == 48
    assert "no finished model yet" in str(terminal.summary(view))


def test_limits_of_a_run_without_a_dense_cost_are_those_of_the_plan(tmp_path) -> None:
    view = read(make_run(tmp_path / "run", trials=3, finished=False))
    assert [value for _, value in view.limits] == pytest.approx([0.6 * 1.40, 0.5 * 40_550_000])


def test_run_without_a_trial_has_no_front(tmp_path) -> None:
    view = read(RunFolder.create(tmp_path / "run", CONFIG, ENVIRONMENT))
    assert (view.front, view.members, view.metric, view.records) == (None, (), None, ())
    assert [value for _, value in view.limits] == [None, None]


def test_folder_that_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(StoreError, match="is not a run folder"):
        read(tmp_path)


def test_damaged_part_is_named(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=6)
    (run.path / "importances.json").write_text("[1, 2]")
    with pytest.raises(
        StoreError, match=r"importances\.json is damaged: must be a valid dictionary, got \[1, 2\]"
    ):
        read(run)
