"""What a search found, as Python users get it."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_run
import torch
from small_run import KEPT, Pair, model_of

import autoprune
from autoprune.errors import StoreError, UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.result import Result
from autoprune.store import RunFolder


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return Result.read(small_run.make(tmp_path).path)


def test_it_is_what_the_folder_holds(result: Result) -> None:
    run = RunFolder.open(result.path)
    assert result.records == run.records()
    assert [record.number for record in result.front.members] == [1, 0]
    assert result.task is None
    assert result == Result.read(str(result.path))
    assert result == Result.read(result.path, Pair())  # the task is no part of what was found


def test_it_is_printed_as_its_front(result: Result) -> None:
    first, *members = str(result).splitlines()
    assert first == f"Result of {result.path}: 2 trials, front of 2"
    assert [line.split(";")[0] for line in members] == ["  <trial 1", "  <trial 0"]


def test_a_run_without_a_front_is_refused(result: Result) -> None:
    (result.path / "front.json").unlink()
    with pytest.raises(StoreError, match="has no front yet · resume it with: autoprune resume"):
        Result.read(result.path)


def test_the_plan_is_what_was_decided_before_the_first_trial(result: Result) -> None:
    assert result.plan is not None
    assert result.plan.limits == {"macs": 0.8 * small_run.DENSE_MACS}
    assert result.plan.objectives == result.front.objectives
    assert result.plan.dense.macs == small_run.DENSE_MACS
    (result.path / "plan.json").unlink()
    assert result.plan is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("recommended", 0), (" recommended ", 0), ("min macs", 1), ("trial=1", 1), ("macs<=20", 1)],
)
def test_pick(result: Result, text: str, number: int) -> None:
    assert result.pick(text).number == number


def test_the_recommendation_is_that_of_the_configuration(result: Result) -> None:
    assert result.recommendation is not None
    assert result.recommendation.record.number == 0  # within 1 % of 0.81
    text = (result.path / "config.yaml").read_text()
    (result.path / "config.yaml").write_text(text + "\nrecommend: '>= 0.4'\n")
    assert result.recommendation.record.number == 1
    assert result.pick("recommended").number == 1


def test_best_is_the_best_metric_within_the_limits(result: Result) -> None:
    assert result.best().number == 0
    assert result.best(macs=42).number == 0
    assert result.best(macs="0.02 k").number == 1
    assert result.best(macs=100, weight_bytes="100 B").number == 1
    with pytest.raises(StoreError, match="no model on the front has macs <= 1 · lowest: macs 14"):
        result.best(macs=1)


@pytest.mark.parametrize("number", KEPT)
def test_a_trials_model_is_that_of_its_folder(result: Result, number: int) -> None:
    expected = model_of(number).state_dict()
    for trial in (number, result.records[number]):
        model = result.model(trial)
        assert not model.training
        assert all(torch.equal(expected[name], t) for name, t in model.state_dict().items())


def test_the_trials_are_a_table(result: Result) -> None:
    table = result.trials_dataframe()
    assert list(table["number"]) == [0, 1]
    assert list(table["metric.accuracy"]) == [0.805, 0.5]
    assert list(table["predicted.macs"]) == [42, 14]
    assert list(table["ratio.0"]) == [0.25, 0.75]


def test_it_is_a_picture_and_a_table_in_a_notebook(result: Result) -> None:
    page = result._repr_html_()
    assert page.count("<tr>") == 1 + 2
    assert page.count("<circle") == 2
    assert "recommended" in page.partition("0 (")[2][:15]
    assert "80.50 %" in page


def test_its_front_is_a_table_in_a_notebook(result: Result) -> None:
    assert result.front._repr_html_() == (
        "<table><caption>2 models on the front</caption>"
        "<tr><th>trial</th><th>accuracy</th><th>macs</th></tr>"
        "<tr><td>1</td><td>0.5</td><td>14</td></tr>"
        "<tr><td>0 (knee)</td><td>0.805</td><td>42</td></tr></table>"
    )
    timed = ParetoFront((Objective("latency_ms"),), (), source="measured")
    assert "<th>latency_ms, measured</th>" in timed._repr_html_()


def test_the_report_is_written_where_it_is_asked_for(result: Result, tmp_path: Path) -> None:
    assert result.report() == result.path / "report.html"
    assert "</html>" in (result.path / "report.html").read_text()
    written = result.report(tmp_path / "table.csv")
    assert written == tmp_path / "table.csv"
    assert written.read_text().startswith("number,state,")
    with pytest.raises(UsageError, match="format must be one of html, md, csv, png, got 'pdf'"):
        result.report(format="pdf")


def test_runs_are_compared_by_their_results_or_folders(result: Result, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = small_run.make(tmp_path / "more", tmp_path / "other", accuracies=(0.7, 0.6))
    found = autoprune.compare(result, other.path)
    assert isinstance(found, autoprune.Comparison)
    assert found.at_cost["run"].tolist() == [0.5] * 5 + [0.805]
    assert found.at_cost["other"].tolist() == [0.6] * 5 + [0.7]
    with pytest.raises(UsageError, match="at least two runs"):
        autoprune.compare(result)
