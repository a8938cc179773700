"""The top of the page."""

from __future__ import annotations

import re
from dataclasses import replace

from synthetic_run import DEVICE
from views import config, measured, on_two, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import summary, terminal
from autoprune.store import DenseReport, RetrainingSummary, Spread


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", "", page)


def tiles(page: str) -> list[tuple[str, ...]]:
    """Kind, title and value with its difference, of each tile."""
    found = re.findall(
        r'<div class="tile (\w+)"><div class="who">(.*?)</div><div class="value">(.*?)</div>', page
    )
    return [(kind, who, text_of(value)) for kind, who, value in found]


def test_the_result_in_one_sentence() -> None:
    view = view_of(trial(0, 0.895, 4.0), trial(1, 0.7, 2.0))
    lead = re.search(r'<p class="lead">(.*?)</p>', summary.head(view))
    assert lead is not None
    assert text_of(lead[1]) == (
        "2 smaller models within latency ≤ 8.00 ms (80 % of dense). Recommended is trial 0 with "
        "accuracy 89.50 % (−0.50 pt to dense): 2.5× faster than dense, measured. Why: the only "
        "model of the front with accuracy ≥ 89.10 % (dense less 1 % of it)."
    )


def test_tiles_are_dense_and_what_was_picked() -> None:
    view = view_of(trial(0, 0.895, 4.0), trial(1, 0.7, 2.0))
    assert view.front.knee.number == 0
    assert tiles(summary.head(view)) == [
        ("dense", "Dense", "90.00 %"),
        ("recommended", "Recommended, knee, best · trial 0", "89.50 % −0.50 pt"),
        ("fastest", "Fastest · trial 1", "70.00 % −20.00 pt"),
    ]
    assert "10.0 ms measured" in summary.head(view)
    assert '<span class="one">200 MACs</span>' in summary.head(view)


def test_the_headline_is_what_the_budget_limits() -> None:
    # dense has 200 MACs, the model 100: half; it takes 5 of 10 ms
    page = summary.head(view_of(trial(0, 0.9, 5.0), budget={"macs": "50%"}))
    assert "<b>MACs 2.0× fewer than dense</b>; 2.0× faster than dense, measured. " in page
    both = view_of(trial(0, 0.9, 5.0), budget={"macs": "50%", "latency_ms": "80%"})
    assert "        MACs 2.0× fewer than dense\n" in str(terminal.summary(both))
    page = summary.head(view_of(trial(0, 0.9, 5.0)))
    assert "<b>2.0× faster than dense, measured</b>" in page


def test_models_are_picked_by_the_cost_that_the_budget_limits() -> None:
    page = summary.head(view_of(trial(0, 0.9, 5.0), budget={"macs": "50%"}))
    assert "<code>--pick trial=N</code> or <code>--pick &quot;macs&lt;=N&quot;</code>" in page


def test_the_cheapest_is_named_by_the_cost() -> None:
    record = trial(0, 0.9, None, predicted=on_two(4.0, 3.0, "predicted"))
    view = replace(view_of(record), devices={"phone": None, "server": None})
    for cost, word in (
        ("latency_ms@phone", "fastest on phone"),
        ("macs", "smallest"),
    ):
        objectives = (Objective("accuracy", "maximize"), Objective(cost))
        shown = replace(view, front=ParetoFront(objectives, (record,)))
        who = tiles(summary.head(shown))[1][1]
        assert who == f"Recommended, knee, {word}, best · trial 0"
    assert "4.00 ms predicted on phone" in summary.head(shown)


def test_state_of_the_run_is_said_once() -> None:
    view = view_of(trial(0, 0.9, 5.0), trial(1, 0.8, 4.0))
    assert "in progress" not in summary.head(view)
    assert "This run is in progress: 2 trials so far." in summary.head(
        replace(view, finished=False)
    )
    lost = replace(view, finished=False, not_measured="the <board> was lost")
    page = summary.head(lost)
    assert "could not be measured: the &lt;board&gt; was lost. It is based on predicted" in page
    assert "in progress" not in page


def test_without_a_model_the_reason_begins_with_a_capital() -> None:
    page = summary.head(view_of())
    assert '<p class="lead">No finished model yet.</p>' in page
    assert 'class="tiles"' not in page
    assert 'class="commands"' not in page


def test_commands_are_for_the_folder_and_know_of_retrained_models() -> None:
    record = trial(0, 0.9, 5.0)
    view = view_of(record, folder="results/my run")
    page = summary.head(view)
    assert "autoprune retrain &#x27;results/my run&#x27; --epochs 20 --seeds 3\nautoprune" in page
    assert "Train the recommended model in full" in page
    assert "to be run where this report was written from" in page
    assert "to be run where" not in summary.head(replace(view, folder="/data/run"))
    done = RetrainingSummary(0, record.candidate, 1.0, (0,), {"accuracy": Spread(0.9)})
    assert "Train another model in full, or write" in summary.head(replace(view, retrained=(done,)))


def test_the_commands_write_the_recommended_model_for_its_runtime() -> None:
    record = trial(0, 0.9, 5.0)
    view = view_of(record, folder="run")
    assert "autoprune export run --format onnx</code>" in summary.head(view)
    other = config({"macs": 1}, device={"runtime": "ncnn"})
    assert "autoprune export run --format ncnn</code>" in summary.head(replace(view, config=other))
    int8 = replace(record, candidate=Candidate(Architecture(precision="int8")))
    page = summary.head(view_of(int8, folder="run"))
    assert "autoprune export run --precision int8</code>" in page
    assert "--format" not in page


def test_doubts_come_with_what_to_do() -> None:
    page = summary.head(view_of(trial(0, 0.8, 5.0)))
    assert "<h2>Look at this first</h2>" in page
    assert page.count('<li class="') == 1
    failed = [trial(n, 0, None, state="failed", metrics={}, error="<x>") for n in (1, 2)]
    page = summary.head(view_of(trial(0, 0.8, 5.0), *failed))
    assert "<h2>What to look at first</h2>" in page
    assert "&lt;x&gt;" in page
    good = view_of(
        trial(0, 0.899, 5.0), trial(1, 0.85, 4.9, predicted=Cost(latency_ms=4.9, device=DEVICE))
    )
    assert 'class="health"' not in summary.head(good)


def test_a_title_cannot_be_markup() -> None:
    view = replace(view_of(), name="<run>", config=config({"macs": 1}).with_task("<img>"))
    page = summary.head(view)
    assert "<h1>&lt;img&gt;</h1>" in page
    assert "<b>&lt;run&gt;</b>" in page


def test_an_unknown_dense_model_is_a_dash() -> None:
    view = view_of(trial(0, 0.9, 5.0), dense=DenseReport({}, None, measured(10.0)))
    assert tiles(summary.head(view))[0] == ("dense", "Dense", "–")
