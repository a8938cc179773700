"""Runs beside one another."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from synthetic_run import make_run
from views import config, trial, view_of

from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.report.comparison import Comparison, best_at, hypervolumes
from autoprune.report.data import RunView
from autoprune.report.read import read

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def printed(what: object) -> str:
    console = Console(width=160, file=StringIO())
    console.print(what)
    return console.file.getvalue()


def front(*points: tuple[float, float], reference=(0.0, 10.0)) -> ParetoFront:
    records = tuple(trial(n, y, x) for n, (x, y) in enumerate(points))
    return ParetoFront(OBJECTIVES, records, reference, source="measured")


def test_hypervolumes_have_one_reference() -> None:
    # to (0, 10): 0.5 x 5 = 2.5 and 1.0 x 8 = 8; the second one's own reference is nearer
    found = hypervolumes([front((5.0, 0.5)), front((2.0, 1.0), reference=(0.4, 9.0))])
    assert found == pytest.approx([2.5 / 8.0, 1.0])


def test_the_best_at_a_cost_is_within_it() -> None:
    found = front((2.0, 0.5), (4.0, 0.8), (6.0, 0.9))
    metric = OBJECTIVES[0]
    assert best_at(found, metric, "latency_ms", 5.0) == 0.8
    assert best_at(found, metric, "latency_ms", 1.0) is None


def test_runs_are_compared_at_equal_cost_and_by_what_differs(tmp_path: Path) -> None:
    one = read(make_run(tmp_path / "one"))
    two = read(make_run(tmp_path / "two", seed=1, search={"trials": 48, "seed": 1, "epochs": 4.0}))
    text = printed(Comparison((one, two)))
    assert "accuracy at latency of at most" in text
    line = next(line for line in text.splitlines() if line.startswith("search.seed"))
    assert line.split() == ["search.seed", "0", "1"]
    assert "search.trials" not in text


def test_tables_have_the_numbers_of_the_text() -> None:
    # up to (0, 100): 0.9 x 88 + 0.5 x 10 = 84.2, and 0.8 x 93 + 0.6 x 3 = 76.2
    one = view_of(trial(0, 0.5, 2.0), trial(1, 0.9, 12.0))
    two = replace(view_of(trial(0, 0.6, 4.0), trial(1, 0.8, 7.0)), name="two", wall_s=60.0)
    fronts = [replace(front_of(view), reference=(0.0, 100.0)) for view in (one, two)]
    found = Comparison(
        tuple(replace(view, front=front) for view, front in zip((one, two), fronts, strict=True))
    )
    runs = found.runs
    assert runs.index.tolist() == ["run", "two"]
    assert runs["trials"].tolist() == runs["members"].tolist() == [2, 2]
    assert runs["hypervolume_share"].tolist() == pytest.approx([1.0, 76.2 / 84.2])
    assert runs.loc["two", "wall_s"] == 60.0
    assert runs["recommended"].tolist() == [1, 1]  # 0.9 is the dense accuracy; 0.8 is nearest to it
    assert runs["accuracy"].tolist() == [0.9, 0.8]
    table = found.at_cost
    assert (table.index.name, table.columns.tolist()) == ("latency_ms", ["run", "two"])
    assert table.index.tolist() == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert table["run"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.9]
    assert pd.isna(table["two"].iloc[0])
    assert table["two"].tolist()[1:] == [0.6, 0.6, 0.8, 0.8, 0.8]
    assert "12.0 ms 90.00 % 80.00 % (−10.00 pt)" in " ".join(str(found).split())


def test_differences_are_a_table_and_all_is_shown_in_notebooks() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    newer = replace(view, name="<b>", environment={"torch": "3"})
    found = Comparison((replace(view, environment={"torch": "2"}), newer))
    assert found.differences.loc["environment.torch"].tolist() == ["2", "3"]
    page = found._repr_html_()
    assert page.count("<table") == 3
    assert "<b>" not in page
    alike = Comparison((view, replace(view, dense=replace(view.dense, metrics={}))))
    assert alike.differences.empty
    assert alike._repr_html_().count("<table") == 2
    assert "other dense models than that of run" in alike._repr_html_()


def test_without_a_metric_there_is_nothing_at_equal_cost() -> None:
    objectives = (Objective("latency_ms"), Objective("macs"))
    view = view_of(trial(0, 0.9, 5.0))
    costs = replace(view, front=ParetoFront(objectives, view.records, source="measured"))
    found = Comparison((costs, costs))
    assert found.at_cost.empty
    assert found.runs["hypervolume_share"].isna().all()


def front_of(view: RunView) -> ParetoFront:
    assert view.front is not None
    return view.front


def test_what_cannot_be_compared_is_refused() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    with pytest.raises(UsageError, match="at least two runs"):
        Comparison((view,))
    other = replace(view, front=ParetoFront((Objective("loss"), Objective("macs")), ()))
    with pytest.raises(UsageError, match="has no front yet"):
        Comparison(
            (
                view,
                other,
            )
        )


def test_other_objectives_cannot_be_compared() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    objectives = (Objective("accuracy", "maximize"), Objective("macs"))
    other = replace(view, name="other", front=ParetoFront(objectives, view.records))
    with pytest.raises(UsageError) as caught:
        Comparison(
            (
                view,
                other,
            )
        )
    assert str(caught.value) == (
        "other has the objectives accuracy, macs, run has accuracy, latency_ms: their fronts "
        "cannot be compared"
    )


def test_metrics_are_compared_at_costs_between_the_ends() -> None:
    one = view_of(trial(0, 0.5, 2.0), trial(1, 0.9, 12.0))
    two = replace(view_of(trial(0, 0.6, 4.0), trial(1, 0.8, 7.0)), name="two")
    lines = [line.split() for line in printed(Comparison((one, two))).splitlines()]
    table = lines[lines.index(next(line for line in lines if "most" in line)) + 2 :][:6]
    # from 2 to 12 ms in five steps; of the second also the difference to the first
    assert [" ".join(line) for line in table] == [
        "2.00 ms 50.00 % –",
        "4.00 ms 50.00 % 60.00 % (+10.00 pt)",
        "6.00 ms 50.00 % 60.00 % (+10.00 pt)",
        "8.00 ms 50.00 % 80.00 % (+30.00 pt)",
        "10.0 ms 50.00 % 80.00 % (+30.00 pt)",
        "12.0 ms 90.00 % 80.00 % (−10.00 pt)",
    ]


def test_proposals_over_the_budget_and_baselines_are_no_trials() -> None:
    proposed = replace(trial(2, 0.0, None), state="infeasible", metrics={})
    more = (replace(trial(3, 0.8, 4.0), origin="baseline:uniform-0"), proposed)
    one = view_of(trial(0, 0.5, 2.0), trial(1, 0.9, 12.0), *more)
    text = printed(Comparison((one, one)))
    head, first = [line.split() for line in text.splitlines() if line.startswith("run ")][:2]
    assert (head[1], first[1]) == ("trials", "2")


def test_another_dense_model_is_warned_of() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    other = replace(view, name="other", dense=replace(view.dense, metrics={"accuracy": 0.8}))
    assert "other dense models than that of run: other" in printed(
        Comparison(
            (
                view,
                other,
            )
        )
    )
    assert "other dense models" not in printed(
        Comparison(
            (
                view,
                view,
            )
        )
    )


def test_runs_that_are_alike_say_so_and_where_they_lie_does_not_count() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    moved = replace(view, config=config({"latency_ms": "80%"}, output="elsewhere", base="/"))
    assert "same configuration and environment" in printed(
        Comparison(
            (
                view,
                moved,
            )
        )
    )
    newer = replace(view, environment={"torch": "3", "note": ""})
    text = printed(
        Comparison(
            (
                replace(view, environment={"torch": "2"}),
                newer,
            )
        )
    )
    rows = [line.split() for line in text.splitlines() if line.startswith("environment.")]
    assert rows == [["environment.torch", "2", "3"], ["environment.note", "–", "–"]]


def test_a_front_without_a_reference_has_no_hypervolume() -> None:
    assert hypervolumes([front((5.0, 0.5)), front((5.0, 0.5), reference=None)]) == []
    assert hypervolumes([front((20.0, 0.5))]) == [0.0]  # nothing within the reference


def test_runs_of_other_tasks_are_named_before_their_values() -> None:
    one, same = view_of(trial(0, 0.5, 2.0)), view_of(trial(0, 0.5, 2.0))
    same = replace(same, name="moved", config=replace_task(same, "elsewhere/t"))
    other = replace(same, name="other", config=replace_task(same, "jobs/task.py:Seq"))
    assert "other tasks" not in str(Comparison((one, same)))
    said = (
        "other tasks than that of run (t): other (task.py:Seq); values of different tasks are not "
        "comparable"
    )
    found = Comparison((one, other))
    assert said in " ".join(str(found).split())
    assert said in found._repr_html_()


def test_runs_of_other_tasks_have_no_common_hypervolume() -> None:
    view = view_of(trial(0, 0.5, 2.0), trial(1, 0.9, 4.0))
    one = replace(view, front=replace(front_of(view), reference=(0.0, 10.0)))
    other = replace(one, name="other", config=replace_task(one, "jobs/task.py:Seq"))
    assert Comparison((one, one)).runs["hypervolume_share"].tolist() == [1.0, 1.0]
    assert "100.0 %" in str(Comparison((one, one)))
    found = Comparison((one, other))
    assert found.runs["hypervolume_share"].isna().all()
    assert "100.0 %" not in str(found)


@pytest.mark.parametrize(("cheapest", "rows"), [(4.0, 1), (3.9, 1), (3.5, 6)])
def test_fronts_of_about_one_cost_are_compared_once(cheapest: float, rows: int) -> None:
    """4 ms are 3 % above 3.9 ms, and 14 % above 3.5 ms."""
    view = view_of(trial(0, 0.5, cheapest), trial(1, 0.9, 4.0))
    table = Comparison((view, replace(view, name="two"))).at_cost
    assert table.index.tolist()[-1] == 4.0
    assert table["two"].tolist()[-1] == 0.9
    assert len(table) == rows


def replace_task(view: RunView, task: str) -> RunConfig:
    return view.config.model_copy(update={"task": task})
