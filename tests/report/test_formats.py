"""Reports in other formats, and the comparison of runs."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import make_run
from test_run_view import trial, view_of

from autoprune.errors import UsageError
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import formats
from autoprune.report.comparison import best_at, compare, hypervolumes
from autoprune.report.read import read

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def printed(what: object) -> str:
    console = Console(width=160, file=StringIO())
    console.print(what)
    return console.file.getvalue()


def test_markdown_has_the_recommendation_and_every_member(finished_run) -> None:
    file = formats.write(finished_run, "md")
    text, view = file.read_text(), read(finished_run)
    assert file.name == "report.md"
    assert text.startswith("# digits\n")
    assert f"Recommended: trial {view.recommendation.record.number}" in text
    for record in (*view.members, *view.baselines):
        assert f"| trial {record.number}" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {8}


def test_csv_has_the_front_and_the_baselines(finished_run) -> None:
    view = read(finished_run)
    with formats.write(finished_run, "csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {r.number for r in (*view.members, *view.baselines)}
    assert {int(row["number"]) for row in rows} == expected
    assert float(rows[0]["metric.accuracy"]) == view.members[0].metrics["accuracy"]


@pytest.mark.skipif(
    not any(map(shutil.which, formats.BROWSERS)), reason="draws with an installed browser"
)
def test_png_is_a_picture(finished_run) -> None:
    content = formats.write(finished_run, "png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) == 2 * 960


def test_png_without_a_browser_says_what_is_needed(finished_run, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="needs a browser on the PATH: one of chromium"):
        formats.write(finished_run, "png")


def test_another_format_is_refused(finished_run) -> None:
    with pytest.raises(UsageError, match="format must be one of html, md, csv, png, got 'pdf'"):
        formats.write(finished_run, "pdf")


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
    text = printed(compare([one, two]))
    assert "accuracy at latency of at most" in text
    line = next(line for line in text.splitlines() if line.startswith("search.seed"))
    assert line.split() == ["search.seed", "0", "1"]
    assert "search.trials" not in text


def test_what_cannot_be_compared_is_refused() -> None:
    view = view_of(trial(0, 0.9, 5.0))
    with pytest.raises(UsageError, match="at least two runs"):
        compare([view])
    other = replace(view, front=ParetoFront((Objective("loss"), Objective("macs")), ()))
    with pytest.raises(UsageError, match="has no front yet"):
        compare([view, other])
