"""A running search in the terminal."""

from __future__ import annotations

import pytest
from views import line_of, text_of

from autoprune._search.state.progress import Snapshot
from autoprune.report import live


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (Snapshot("prepare"), "preparing · 0.0 s"),
        (
            Snapshot("prepare", "training the dense model", elapsed_s=3.0),
            "preparing · training the dense model · 3.0 s",
        ),
        (Snapshot("search", trials=8), "searching · 0 of 8 trials · 0.0 s"),
        (
            Snapshot("search", trials=8, running=2, complete=3, failed=1, infeasible=4),
            "searching · 4 of 8 trials (2 in progress, 3 complete, 4 over budget, 1 failed) · "
            "0.0 s",
        ),
        (Snapshot("verify", front=({"trial": 1},)), "measuring the front · front 1 · 0.0 s"),
        (Snapshot("done", elapsed_s=61.0, epochs=2.5), "done · 1 min 1 s · 2.5 epochs"),
        (
            Snapshot("search", left_s=75.0, hypervolume=0.0),
            "searching · 0.0 s · about 1 min 15 s left · hypervolume 0",
        ),
        (Snapshot("search", left_s=0.0), "searching · 0.0 s"),
        (
            Snapshot("tidying", left_s=9.0, hypervolume=0.0),
            "tidying · 0.0 s · hypervolume 0",
        ),
    ],
)
def test_a_snapshot_is_one_line(snapshot: Snapshot, line: str) -> None:
    assert live.line(snapshot) == line


MEMBER = {"trial": 4.0, "accuracy": 0.9712, "loss": 0.25, "latency_ms@phone": 0.123, "macs": 2e6}


def test_the_panel_has_the_front_with_predicted_latencies() -> None:
    shown = text_of(live.panel(Snapshot("search", "note", trials=4, complete=1, front=(MEMBER,))))
    assert shown.startswith("searching  note")
    assert shown.splitlines()[1].strip() == "━" * 15  # a quarter of 60
    assert shown.splitlines()[2] == "1 of 4 trials (1 complete)"
    assert line_of(shown, "trial") == [
        "trial",
        "accuracy",
        "loss",
        "predicted",
        "latency_ms@phone",
        "macs",
    ]
    assert line_of(shown, "    4") == ["4", "97.12", "%", "0.25", "0.123", "ms", "2.00", "M"]


def test_after_the_measurement_latencies_are_measured() -> None:
    snapshot = Snapshot("done", trials=4, complete=4, front=(MEMBER,), source="measured")
    assert line_of(text_of(live.panel(snapshot)), "trial")[3:5] == ["measured", "latency_ms@phone"]


def test_a_value_that_a_member_lacks_is_a_dash() -> None:
    front = (MEMBER, {"trial": 5.0, "accuracy": 0.5})
    row = line_of(text_of(live.panel(Snapshot("search", front=front))), "    5")
    assert row == ["5", "50.00", "%", "–", "–", "–"]


@pytest.mark.parametrize(("members", "caption"), [(12, None), (13, "and 1 more"), (40, "28 more")])
def test_a_long_front_is_cut(members: int, caption: str | None) -> None:
    front = tuple({"trial": float(n), "accuracy": 0.5} for n in range(members))
    shown = text_of(live.panel(Snapshot("search", front=front)))
    assert shown.count("50.00 %") == 12
    assert ("more" in shown) is (caption is not None)
    assert (caption or "") in shown


def test_without_trials_there_is_no_bar() -> None:
    assert len(text_of(live.panel(Snapshot("prepare", "building"))).splitlines()) == 2
    assert len(text_of(live.panel(Snapshot("search", trials=3, complete=1))).splitlines()) == 4
