"""Plot specifications hold the numbers of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report import (
    figures,
)
from autoprune.report.data import RunView
from autoprune.schedule import Schedule
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import ProfileSummary, SearchPlan


def test_heat_map_has_the_ratio_of_every_group_and_member(view) -> None:
    trace = figures.ratios(view)["data"][0]
    shown = {
        (column, name): percent
        for column, (name, percent) in zip(trace["x"], trace["customdata"], strict=True)
    }
    assert shown == {
        (f"#{record.number}", name): pytest.approx(100 * ratio, abs=0.06)
        for record in view.members
        for name, ratio in record.candidate.architecture.ratios(view.groups).items()
    }


def test_schedule_ends_at_the_removed_share_of_all_units(view) -> None:
    traces = figures.schedules(view)["data"]
    for record, trace in zip(view.members, traces, strict=True):
        units = sum(view.groups.values())
        gone = sum(
            view.groups[name] * ratio
            for name, ratio in record.candidate.architecture.ratios(view.groups).items()
        )
        assert trace["y"][-1] == pytest.approx(100 * gone / units)
        assert trace["x"] == sorted(trace["x"])


SCHEDULE = Schedule("linear", 0.0, 0.5, 2)


def of_groups(number: int, widths: dict[str, int], latency: float) -> TrialRecord:
    made = Candidate.planned(Architecture(widths), {"a": 8, "b<": 24}, schedule=SCHEDULE)
    return replace(trial(number, 0.8 + number / 100, latency), candidate=made)


def in_groups(*records: TrialRecord) -> RunView:
    return replace(view_of(*records), groups={"a": 8, "b<": 24})


def test_the_heat_map_has_a_cell_for_each_group_and_member() -> None:
    view = in_groups(of_groups(0, {"a": 4, "b<": 24}, 4.0), of_groups(1, {"a": 8, "b<": 6}, 5.0))
    figure = figures.ratios(view)
    (trace,) = figure["data"]
    assert trace["x"] == ["#0", "#1", "#0", "#1"]
    assert [percent for _, percent in trace["customdata"]] == [50.0, 0.0, 0.0, 75.0]
    assert trace["marker"]["color"] == ["--heat 50", "--heat 0", "--heat 0", "--heat 75"]
    assert trace["textfont"]["color"] == ["--heat-ink", "--heat-ink", "--heat-ink", "--heat-ink-2"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["a", "b&lt;"]
    assert figures.ratios(view_of()) is None
    assert figures.ratios(view_of(trial(0, 0.9, 4.0))) is None  # no group is known


def test_a_schedule_is_a_stair_of_all_units() -> None:
    # 4 of 8 and 12 of 24 units go: half of all 32; a half of that at 0, all of it at 50 %
    view = in_groups(of_groups(0, {"a": 4, "b<": 12}, 4.0))
    (trace,) = figures.schedules(view)["data"]
    assert trace["name"] == "trial 0 · linear"
    assert trace["x"] == [0.0, 0.0, 50.0, 100.0]
    assert trace["y"] == pytest.approx([0.0, 25.0, 50.0, 50.0])
    assert figures.schedules(view_of()) is None


def with_history(number: int, latency: float | None, *values: float, **more) -> TrialRecord:
    entries = [{"epoch": k + 1.0, "accuracy": value} for k, value in enumerate(values)]
    return trial(number, values[-1], latency, history=tuple(entries), **more)


def test_histories_of_members_are_colored_and_others_faint() -> None:
    records = (
        with_history(0, 5.0, 0.5, 0.9),
        with_history(1, 9.0, 0.4, 0.6),
        with_history(2, 9.5, 0.3),  # one point is no line
        trial(3, 0.1, 9.9),
    )
    figure = figures.history(view_of(*records), "accuracy")
    assert [trace["name"] for trace in figure["data"]] == ["trial 1", "trial 0"]
    other, member = figure["data"]
    assert (other["line"]["color"], other["mode"]) == ("--faint", "lines")
    assert (member["line"]["color"], member["mode"]) == ("#12a594", "lines+markers")
    assert (member["x"], member["y"]) == ([1.0, 2.0], [50.0, 90.0])
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy, %"
    assert [shape["y0"] for shape in figure["layout"]["shapes"]] == [90.0]
    assert figures.history(view_of(*records), "train_loss") is None


def test_a_prediction_needs_two_models_that_have_both() -> None:
    records = (trial(0, 0.9, 4.0), trial(1, 0.8, 6.0), trial(2, 0.7, None))
    assert figures.prediction(view_of(*records[::2]), "latency_ms") is None
    held_out = ProfileSummary(DEVICE, 0.05, ((0.7, 0.8),), dense_ms=10.0)  # fractions of dense
    view = replace(view_of(*records), devices={"": held_out})
    line, others, known = figures.prediction(view, "latency_ms")["data"]
    assert (known["x"], known["y"]) == ([5.0, 5.0], [4.0, 6.0])
    assert known["text"] == ["trial 0", "trial 1"]
    assert (others["x"], others["y"]) == ([8.0], [7.0])  # (measured, predicted) in the file
    unknown = replace(view, devices={"": replace(held_out, dense_ms=None)})
    assert figures.prediction(unknown, "latency_ms")["data"][1]["x"] == []
    assert line["x"] == line["y"] == pytest.approx([0, 1.08 * 8.0])


def test_the_hypervolume_grows_with_each_better_trial() -> None:
    def at(number: int, accuracy: float, ms: float, **more) -> TrialRecord:
        predicted = Cost(latency_ms=ms, source="predicted", device=DEVICE)
        return trial(number, accuracy, None, predicted=predicted, **more)

    records = (
        at(0, 0.5, 8.0),  # 0.5 x 2
        at(1, 0.4, 9.0),  # dominated
        at(2, 0.9, 5.0, state="stopped"),
        at(3, 0.5, 6.0),  # 0.5 x 4
        at(4, 1.0, 9.5),  # over the limit of 9 ms
        at(5, 1.0, 8.0),  # and 0.5 x 2 above
    )
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    space = FittedSpace.of(SearchSpace.parse({}), {"a": 8})
    plan = SearchPlan(objectives, (0.0, 10.0), {"latency_ms": 9.0}, (), space, Cost())
    front = ParetoFront(objectives, records, (0.0, 10.0))
    view = replace(view_of(*records, plan=plan), front=front)
    (trace,) = figures.hypervolume(view)["data"]
    assert trace["x"] == [0, 1, 2, 3, 4, 5, 6]
    volumes = [0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert trace["y"] == pytest.approx([100 * volume / 3.0 for volume in volumes])
    assert figures.hypervolume(replace(view, plan=None)) is None
    assert figures.hypervolume(replace(view, records=records[:2])) is None
    assert figures.hypervolume(replace(view, front=replace(front, reference=None))) is None


def test_the_largest_importances_are_shown() -> None:
    shares = {f"p{n}": n / 100 for n in range(15)}
    view = replace(view_of(), importances={"accuracy": shares, "macs": {"<lr>": 1.0}})
    found = figures.importances(view)
    assert list(found) == ["accuracy", "macs"]
    (bars,) = found["accuracy"]["data"]
    assert bars["y"] == [f"p{n}" for n in range(3, 15)]
    assert bars["x"] == pytest.approx([float(n) for n in range(3, 15)])
    assert found["macs"]["data"][0]["y"] == ["&lt;lr&gt;"]
    (only,) = figures.importances(view, most=1)["accuracy"]["data"]
    assert only["y"] == ["p14"]
