"""The front against a cost."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from autoprune.report import (
    front_axes,
    front_plot,
)


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
