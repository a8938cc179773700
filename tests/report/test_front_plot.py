"""The front against a cost."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from views import trial, view_of

from autoprune.budget import Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import (
    front_axes,
    front_plot,
    front_section,
)
from autoprune.report.data import RunView


def test_front_plot_shows_every_trial_once_on_the_predicted_axis(view) -> None:
    figure = front_plot.fronts(view)["predicted.latency_ms"]
    shown = [text for trace in figure["data"] for text in trace.get("text", ()) if "trial" in text]
    numbers = sorted(int(re.match(r"<b>trial (\d+)</b>", text).group(1)) for text in shown)
    twice = [r.number for r in view.uniform if r in view.members]  # a square around the circle
    assert numbers == sorted([*(record.number for record in view.records), *twice])
    assert figure["legend"][-1] == "budget"
    strip = {trace["name"] for trace in figure["data"] if trace.get("yaxis") == "y2"}
    assert strip == {"over budget", "failed"}


def test_measured_axis_shows_only_what_was_measured(view) -> None:
    figure = front_plot.fronts(view)["measured.latency_ms"]
    points = [x for trace in figure["data"] if trace.get("text") for x in trace["x"]]
    known = [r.measured.latency_ms for r in view.records if r.measured]
    assert sorted(points) == pytest.approx(sorted([*known, view.dense.measured.latency_ms]))
    assert front_axes.default_axis(view, list(front_plot.fronts(view))) == "measured.latency_ms"


def test_stairs_only_go_up_with_the_cost(view) -> None:
    for figure in front_plot.fronts(view).values():
        stairs = next(t for t in figure["data"] if t.get("line", {}).get("shape") == "hv")
        assert stairs["x"] == sorted(stairs["x"])
        assert stairs["y"] == sorted(set(stairs["y"]))


def test_point_far_below_the_front_is_pinned_to_the_edge_and_says_its_value(view) -> None:
    loser = next(r for r in view.records if r.state == "stopped")
    records = tuple(
        replace(r, metrics={"accuracy": 0.10}) if r is loser else r for r in view.records
    )
    figure = front_plot.fronts(replace(view, records=records))["macs"]
    trace = next(t for t in figure["data"] if t["name"] == "stopped")
    index = next(i for i, text in enumerate(trace["text"]) if f"trial {loser.number}<" in text)
    low, high = figure["layout"]["yaxis"]["range"]
    assert low > 20
    assert low <= trace["y"][index] <= high
    assert trace["marker"]["symbol"][index] == "triangle-down"
    assert "accuracy 10.00 %" in trace["text"][index]
    assert "outside" in figure["legend"]


def plot_of(view: RunView, key: str) -> dict:
    return front_plot.fronts(view)[key]


def of(figure: dict, name: str) -> dict:
    return next(trace for trace in figure["data"] if trace.get("name") == name)


def test_ranges_and_marks_of_a_small_run_by_hand() -> None:
    records = (
        trial(0, 0.9, 8.0),
        trial(1, 0.8, 4.0),
        trial(2, 0.7, 7.0),  # dominated
        trial(3, 0.86, 6.0, origin="baseline:uniform-0"),
        trial(4, 0.6, 5.0, origin="baseline:random-0"),
        trial(5, 0.1, 3.0, state="stopped"),
    )
    figure = plot_of(view_of(*records), "measured.latency_ms")
    # by rising cost: 1, 3, 0; the dense model has 90 % at 10 ms, the budget is 80 % of that
    assert of(figure, "front")["x"] == [4.0, 6.0, 8.0]
    assert of(figure, "front")["y"] == pytest.approx([80.0, 86.0, 90.0])
    assert of(figure, "finished")["y"] == pytest.approx([70.0])
    assert of(figure, "random widths or weights")["y"] == pytest.approx([60.0])
    assert of(figure, "uniform pruning")["marker"]["symbol"] == ["square-open"]  # on the front too
    assert (of(figure, "dense")["x"], of(figure, "dense")["y"]) == ([10.0], [90.0])
    assert figure["layout"]["xaxis"]["range"] == pytest.approx([0.0, 10.6])
    # members, baselines and dense lie between 60 and 90: half of that below, and some room
    assert figure["layout"]["yaxis"]["range"] == pytest.approx([60 - 15 - 2.4, 90 + 3.0])
    low, high = figure["layout"]["yaxis"]["range"]
    assert of(figure, "stopped")["y"] == pytest.approx([low + 0.02 * (high - low)])
    assert of(figure, "stopped")["marker"]["symbol"] == ["triangle-down"]  # it lies below
    assert figure["legend"] == [
        *("front", "dense", "uniform", "random", "finished", "stopped", "outside", "budget")
    ]
    (line,) = (s for s in figure["layout"]["shapes"] if s.get("line", {}).get("dash") == "dash")
    assert line["x0"] == line["x1"] == 8.0
    words = [note["text"] for note in figure["layout"]["annotations"]]
    assert words == ["budget 8.00 ms", "recommended", "knee"]
    assert figure["layout"]["annotations"][1]["x"] == 8.0  # the only one within 1 % of 90


@pytest.mark.parametrize(("cost", "side"), [(0.4, "left"), (3.0, "right")])
def test_a_name_near_the_axis_is_written_away_from_it(cost: float, side: str) -> None:
    view = view_of(trial(0, 0.9, 8.0), trial(1, 0.88, cost), trial(2, 0.6, 0.2))
    notes = plot_of(view, "measured.latency_ms")["layout"]["annotations"]
    (knee,) = (note for note in notes if note["text"] == "knee")
    assert (knee["x"], knee["xanchor"]) == (cost, side)
    assert (knee["ax"] > 0) == (side == "left")


def test_a_loss_is_better_the_lower_it_is() -> None:
    records = [
        replace(trial(n, 0, ms), metrics={"loss": loss})
        for n, (ms, loss) in enumerate(((8.0, 0.2), (4.0, 0.4), (6.0, 0.9)))
    ]
    front = ParetoFront((Objective("loss"), Objective("latency_ms")), tuple(records))
    view = replace(view_of(*records), front=replace(front, source="measured"))
    figure = plot_of(view, "measured.latency_ms")
    assert figure["layout"]["yaxis"]["title"]["text"] == "validation loss (lower is better)"
    stairs = next(t for t in figure["data"] if t.get("line", {}).get("shape") == "hv")
    assert (stairs["x"], stairs["y"]) == ([4.0, 8.0], [0.4, 0.2])
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 0.2
    assert 0.4 < high < 0.9
    (pinned,) = of(figure, "finished")["y"]
    assert pinned == pytest.approx(high - 0.02 * (high - low))
    assert of(figure, "finished")["marker"]["symbol"] == ["triangle-up"]


def test_stairs_leave_out_members_that_are_dominated_on_this_axis() -> None:
    records = (
        trial(0, 0.8, 4.0, predicted=Cost(macs=50)),
        trial(1, 0.9, 8.0, predicted=Cost(macs=40)),
    )
    figure = plot_of(view_of(*records), "macs")
    stairs = next(t for t in figure["data"] if t.get("line", {}).get("shape") == "hv")
    assert (stairs["x"], stairs["y"]) == ([40.0], [90.0])
    assert of(figure, "front")["x"] == [50.0, 40.0]


def test_a_limit_beyond_the_picture_is_not_drawn() -> None:
    view = view_of(trial(0, 0.9, 5.0), budget={"latency_ms": "900%"})
    figure = plot_of(view, "measured.latency_ms")
    assert "budget" not in figure["legend"]
    assert not any("budget" in note["text"] for note in figure["layout"]["annotations"])
    assert [shape["type"] for shape in figure["layout"]["shapes"]] == ["line"]  # dense alone


def test_what_has_no_metric_lies_in_the_strip_below() -> None:
    failed = trial(1, 0, None, state="failed", metrics={})
    over = trial(2, 0, None, state="infeasible", metrics={})
    figure = plot_of(view_of(trial(0, 0.9, 5.0), failed, over), "predicted.latency_ms")
    assert figure["layout"]["yaxis2"]["categoryarray"] == ["failed", "over budget"]
    assert of(figure, "failed")["y"] == ["failed"]
    assert of(figure, "over budget")["yaxis"] == "y2"
    alone = plot_of(view_of(trial(0, 0.9, 5.0)), "predicted.latency_ms")
    assert "yaxis2" not in alone["layout"]
    assert alone["layout"]["yaxis"]["domain"] == [0.0, 1]


def test_without_a_finished_model_there_is_no_plot() -> None:
    assert front_plot.fronts(view_of()) == {}
    assert front_plot.fronts(view_of(trial(1, 0, None, state="failed", metrics={}))) == {}
    assert front_plot.fronts(replace(view_of(trial(0, 0.9, 5.0)), front=None)) == {}


def test_of_many_trials_the_newest_are_drawn() -> None:
    records = [trial(n, 0.5, 9.0 + n / 1000) for n in range(600)]
    figure = plot_of(view_of(trial(1000, 0.9, 5.0), *records), "measured.latency_ms")
    assert len(of(figure, "finished")["x"]) == 500
    assert of(figure, "finished")["x"][0] == pytest.approx(9.1)


def test_a_smaller_dense_model_has_a_mark_of_its_own() -> None:
    small = trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)
    view = view_of(trial(0, 0.9, 8.0), smaller=(small,))
    figure = plot_of(view, "measured.latency_ms")
    found = of(figure, "smaller dense model")
    assert (found["x"], found["y"]) == ([3.0], pytest.approx([70.0]))
    assert found["text"][0].startswith("<b>net-20</b> · complete · baseline:smaller net-20")
    assert figure["legend"] == ["front", "dense", "smaller", "budget"]
    assert "smaller dense model" in front_section.front(
        view, {"front": {"a": {"label": "a", **figure}}}
    )
