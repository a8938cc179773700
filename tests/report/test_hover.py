"""What a point of a plot says."""

from __future__ import annotations

from dataclasses import replace

from synthetic_run import DEVICE
from views import measured, on_two, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.report.hover import hover
from autoprune.schedule import Schedule


def test_a_finished_model_says_all_that_is_known_of_it() -> None:
    known = {"params": 40, "macs": 100, "weight_bytes": 160}
    predicted = Cost(**known, latency_ms=5.0, source="predicted", device=DEVICE)
    made = Candidate(
        Architecture(precision="int8"), Selection("obs"), Schedule(), Recovery(lr=0.01)
    )
    record = replace(
        trial(7, 0.85, 4.0, origin="seed:least-0", predicted=predicted), candidate=made
    )
    assert hover(view_of(record), record).split("<br>") == [
        "<b>trial 7 int8</b> · complete · seed:least-0",
        "accuracy 85.00 % (−5.00 pt to dense)",
        "latency predicted 5.00 ms",
        "latency measured 4.00 ms",
        "MACs 100, parameters 40, weights 160 B",
        "one_shot · obs · lr 0.01",
    ]


def test_what_is_not_known_is_left_out() -> None:
    record = trial(3, 0.0, None, state="failed", metrics={}, predicted=None, error="<b>bad</b>\nx")
    assert hover(view_of(record), record).split("<br>") == [
        "<b>trial 3</b> · failed · ",
        "one_shot · l2 · lr default",
        "&lt;b&gt;bad&lt;/b&gt;",
    ]
    unrated = trial(3, 0.5, None, predicted=None)
    nameless = replace(view_of(unrated), front=None)
    assert hover(nameless, unrated).split("<br>")[1:] == ["one_shot · l2 · lr default"]


def test_each_device_has_its_latency() -> None:
    record = trial(
        0,
        0.9,
        None,
        predicted=on_two(4.0, 3.0, "predicted"),
        measured=on_two(None, 2.0, "measured"),
    )
    view = replace(view_of(record), devices={"phone": None, "server": None})
    assert [line for line in hover(view, record).split("<br>") if "latency" in line] == [
        "latency on phone predicted 4.00 ms",
        "latency on server predicted 3.00 ms",
        "latency on server measured 2.00 ms",
    ]


def test_a_long_reason_is_cut_and_a_users_words_are_escaped() -> None:
    record = trial(0, 0.9, 1.0, origin="<i>", error="x" * 200, measured=measured(1.0))
    lines = hover(view_of(record), record).split("<br>")
    assert lines[0].endswith("· &lt;i&gt;")
    assert lines[-1] == "x" * 90
