"""The page's parts between the tables and the appendix."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import on_two, trial, view_of

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.report import sections
from autoprune.report.contents import NO_FASTER
from autoprune.store import FrozenInfo, ProfileSummary


@pytest.mark.parametrize(
    "part", [sections.removed, sections.training, sections.prediction, sections.importances]
)
def test_a_part_without_a_plot_is_left_out(part) -> None:
    assert part(view_of(trial(0, 0.9, 5.0)), {}) == ""


def test_what_is_not_prunable_is_listed_with_its_reason() -> None:
    view = replace(view_of(trial(0, 0.9, 5.0)), frozen=(FrozenInfo("head<", 10, "output & end"),))
    page = sections.removed(view, {"ratios": {}})
    assert "<h2>Per-layer sparsity</h2>" in page
    assert 'data-figure="ratios"' in page
    assert "<summary>Not prunable, and why (1)</summary>" in page
    assert '<td class="l">head&lt;</td><td>10</td><td class="l wrap">output &amp; end</td>' in page
    assert NO_FASTER not in page


def test_zeros_are_said_to_be_no_faster_where_there_are_any() -> None:
    record = replace(trial(0, 0.9, 5.0), candidate=Candidate(Architecture(patterns={"w": "0.5"})))
    assert NO_FASTER in sections.removed(view_of(record), {"ratios": {}})


def test_training_has_a_plot_for_each_history_that_is_drawn() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    page = sections.training(view, {"schedules": {}, "history_loss": {}})
    assert [name for name in ("schedules", "history_metric", "history_loss") if name in page] == [
        "schedules",
        "history_loss",
    ]
    assert "<h3>Training loss</h3>" in page
    assert "<h3>Validation accuracy</h3>" in sections.training(
        view, {"schedules": {}, "history_metric": {}}
    )


def test_the_errors_of_the_predictor_are_those_of_the_measured_models() -> None:
    # predicted are 5 ms each: 5 / 4 - 1 = 25 %, 1 - 5 / 10 = 50 %
    view = view_of(trial(0, 0.9, 4.0), trial(1, 0.8, 10.0), trial(2, 0.7, None))
    page = sections.prediction(view, {"prediction_0": {}})
    assert (
        "<p>Over 2 measured models, the mean absolute error of the predicted latency is "
        "<b>37.5 %</b>, the largest 50.0 %. The line is equality.</p>"
    ) in page
    fitted = replace(view, devices={"": ProfileSummary(DEVICE, 0.047, ((1.0, 1.1),) * 40)})
    assert (
        " The predictor's mean error on 40 held-out models (gray) was 4.7 %."
    ) in sections.prediction(fitted, {"prediction_0": {}})


def test_each_device_has_its_own_prediction() -> None:
    record = trial(
        0,
        0.9,
        None,
        predicted=on_two(4.0, 3.0, "predicted"),
        measured=on_two(5.0, 2.0, "measured"),
    )
    view = replace(view_of(record), devices={"phone": None, "server": None})
    both = sections.prediction(view, {"prediction_0": {}, "prediction_1": {}})
    assert both.count('class="keep"') == 2
    assert "latency on phone is <b>20.0 %</b>" in both
    assert "latency on server is <b>50.0 %</b>" in both
    one = sections.prediction(view, {"prediction_1": {}})
    assert "phone" not in one
    assert 'data-figure="prediction_1"' in one


def test_importances_are_titled_by_objective() -> None:
    view = replace(view_of(), importances={"accuracy": {"lr": 1.0}, "<macs>": {"lr": 1.0}})
    page = sections.importances(view, {"importance_1": {}})
    assert "<h3>&lt;macs&gt;</h3>" in page
    assert "<h3>accuracy</h3>" not in page
