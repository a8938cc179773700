"""Plot specifications hold the numbers of the run."""

from __future__ import annotations

import pytest

from autoprune.report import (
    figures,
)


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
