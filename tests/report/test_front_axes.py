"""The costs that a front may be drawn against."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import measured, on_two, trial, view_of

from autoprune.budget import Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.report.front_axes import axes, cost_of, default_axis, scale_of
from autoprune.store import DenseReport

COUNTS = ["macs", "params", "weight_bytes", "peak_memory_bytes", "measured.file_bytes"]
COUNTS += ["file_bytes"]


def test_latencies_of_every_device_come_first() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    assert [key for key, *_ in axes(view)] == [
        "measured.latency_ms",
        "predicted.latency_ms",
        *COUNTS,
    ]
    several = axes(replace(view, devices={"phone": None, "server": None}))
    assert several[:2] == (
        (
            "measured.latency_ms@phone",
            "measured",
            "latency_ms@phone",
            "Latency on phone, measured",
        ),
        (
            "predicted.latency_ms@phone",
            "predicted",
            "latency_ms@phone",
            "Latency on phone, predicted",
        ),
    )
    assert len(several) == 4 + len(COUNTS)


def with_objectives(view, *names: str):
    objectives = (Objective("accuracy", "maximize"), *(Objective(name) for name in names))
    return replace(view, front=ParetoFront(objectives, view.records, source="predicted"))


def test_the_searched_cost_is_first_measured_where_all_were() -> None:
    all_of_them = [key for key, *_ in axes(view_of(trial(0, 0.9, 5.0)))]
    whole = view_of(trial(0, 0.9, 5.0), trial(1, 0.8, 4.0))
    assert default_axis(whole, all_of_them) == "measured.latency_ms"
    part = with_objectives(
        view_of(
            trial(0, 0.9, 5.0), trial(1, 0.8, None, predicted=Cost(latency_ms=4.0, device=DEVICE))
        ),
        "latency_ms",
    )
    assert len(part.members) == 2
    assert default_axis(part, all_of_them) == "predicted.latency_ms"
    assert default_axis(with_objectives(whole, "macs"), all_of_them) == "macs"
    assert default_axis(with_objectives(whole, "macs"), ["params"]) == "params"
    assert default_axis(replace(whole, front=None), all_of_them) == "measured.latency_ms"
    assert default_axis(whole, []) is None


def test_a_cost_is_that_of_its_source() -> None:
    record = trial(0, 0.9, 4.0)
    assert cost_of(record, "predicted", "latency_ms") == 5.0
    assert cost_of(record, "measured", "latency_ms") == 4.0
    assert cost_of(record, "measured", "macs") is None
    assert cost_of(replace(record, measured=None), "measured", "latency_ms") is None
    several = replace(record, measured=on_two(3.0, 2.0, "measured"))
    assert cost_of(several, "measured", "latency_ms@server") == 2.0


@pytest.mark.parametrize(
    ("dense", "field", "scale"),
    [
        (Cost(macs=999), "macs", (1.0, "count")),
        (Cost(macs=1000), "macs", (1e3, "k")),
        (Cost(macs=40_000_000), "macs", (1e6, "M")),
        (Cost(macs=10**13), "macs", (1e9, "G")),
        (Cost(weight_bytes=500), "weight_bytes", (1.0, "B")),
        (Cost(weight_bytes=2_000_000), "weight_bytes", (1e6, "MB")),
        (Cost(), "params", (1.0, "count")),
        (Cost(), "latency_ms@phone", (1.0, "ms")),
        (None, "peak_memory_bytes", (1.0, "B")),
    ],
)
def test_the_unit_is_that_of_the_largest_value(
    dense: Cost | None, field: str, scale: tuple[float, str]
) -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=DenseReport({}, dense, measured(9.0)))
    assert scale_of(view, field) == scale
