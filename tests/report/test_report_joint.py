"""The joint front in the terminal and in files."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import joint_run
import pytest
from rich.console import Console

from autoprune.errors import UsageError
from autoprune.joint import JointFront
from autoprune.record import TrialRecord
from autoprune.report.joint import markdown, page, plot, show, single_reports, table_csv, write
from autoprune.store import RunFolder, StartingState


@pytest.fixture
def whole(tmp_path: Path) -> RunFolder:
    return joint_run.make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5))


def shown(joint: JointFront) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(show(joint))
    return console.export_text()


def test_members_are_named_by_their_starting_model(whole: RunFolder) -> None:
    text = shown(JointFront.read(whole))
    rows = [line.split("  ")[0] for line in text.splitlines() if re.match(r"(large|small), ", line)]
    assert rows == ["large, dense", "small, dense", "small, trial 1", "large, trial 0 ★ ▲"]
    assert "recommended is large, trial 0" in text
    # of 0.4 x (56 - 14) + 0.4 x (56 - 42): 0.1 x 14, and 0.1 x 28
    assert "large 6.3 %, 4 trials; small 12.5 %, 1 trial\n" in text


def test_what_is_left_out_is_said_with_the_reason(whole: RunFolder) -> None:
    whole.save_starting(StartingState(({"large": 4},), left_out={"small": "too large"}))
    joint = JointFront.read(whole)
    assert "! small is left out: too large" in shown(joint)
    assert "- small is left out: too large" in markdown(joint)
    assert "small is left out: too large" in page(joint)


def test_markdown_has_dense_models_and_picks(whole: RunFolder) -> None:
    lines = markdown(JointFront.read(whole)).splitlines()
    assert "| model | val accuracy | MACs | parameters | weights |" in lines
    assert "| large, dense | 81.00 % | 56 | 67 | 268 B |" in lines
    assert "| large, trial 0, **recommended**, **knee** | 90.00 % | 42 | 51 | 204 B |" in lines


def test_csv_has_numbers(whole: RunFolder) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(JointFront.read(whole)))))
    assert [(row["starting_model"], row["trial"]) for row in rows] == [
        *(("large", ""), ("small", "")),
        *(("small", "1"), ("large", "0")),
    ]
    assert float(rows[-1]["macs"]) == 42.0


def test_plot_has_a_line_and_a_diamond_for_each_start(whole: RunFolder) -> None:
    figure = plot(JointFront.read(whole))
    assert figure is not None
    lines, diamonds = figure["data"][::2], figure["data"][1::2]
    assert [line["x"] for line in lines] == [[14.0, 42.0], [14.0, 42.0]]
    assert [line["marker"]["size"] for line in lines] == [[6, 13], [13, 6]]
    assert [mark["y"] for mark in diamonds] == [[81.0], [81.0]]


def test_baselines_of_every_run_stand_below_the_joint_front(whole: RunFolder) -> None:
    for name, accuracy, origin in (("large", 0.3, "smaller net20"), ("small", 0.2, "random-0")):
        run = whole.starting_model(name)
        base = replace(
            run.records()[0], metrics={"accuracy": accuracy}, origin=f"baseline:{origin}"
        )
        if name == "large":
            run.save_smaller([replace(base, number=-1)])
        else:
            run.append(replace(base, number=2))
    joint = JointFront.read(whole)
    lines = markdown(joint).splitlines()
    assert lines[-4:-2] == [
        "| large, smaller, net20 | 30.00 % | 42 | 51 | 204 B |",
        "| small, random, trial 2 | 20.00 % | 42 | 51 | 204 B |",
    ]
    assert "large, smaller, net20" in shown(joint)
    *_, first, second = csv.DictReader(io.StringIO(table_csv(joint)))
    assert (first["trial"], first["baseline"]) == ("net20", "smaller")
    assert (second["trial"], second["baseline"]) == ("2", "random")
    figure = plot(joint)
    assert figure is not None
    squares = [t for t in figure["data"] if t["marker"].get("symbol") == "square-open"]
    assert [(t["x"], t["y"]) for t in squares] == [([42.0], [30.0]), ([42.0], [20.0])]
    assert len(joint.front.members) == 2


def test_doubts_are_told_after_the_starting_model(whole: RunFolder) -> None:
    small = whole.starting_model("small")
    for number in range(2, 5):
        error, candidate = "out of memory", small.records()[0].candidate
        small.append(TrialRecord(number, candidate, "failed", seed=0, error=error, origin="tpe"))
    joint = JointFront.read(whole)
    says, remedy = "small: 3 of 5 trials failed: out of memory.", "their reasons: autoprune show"
    assert f"! {says}\n  {remedy}" in shown(joint)
    assert f"- {says} *{remedy}" in markdown(joint)
    assert f'<li class="bad">{says} <span class="todo">{remedy}' in page(joint)
    assert "large: " not in page(joint).partition('class="health"')[2].partition("</section>")[0]


def test_page_leads_to_the_runs(whole: RunFolder) -> None:
    text = page(JointFront.read(whole))
    assert '<a href="starts/large/report.html">large</a>' in text
    assert "autoprune retrain" in text
    assert "recommended is large, trial 0" in text
    assert [file.parent.name for file in single_reports(whole)] == ["large", "small"]
    assert (whole.path / "starts" / "large" / "report.html").is_file()


def test_links_lead_from_where_the_page_is(whole: RunFolder, tmp_path: Path) -> None:
    text = write(whole, "html", tmp_path / "elsewhere" / "x.html").read_text()
    assert '<a href="../whole/starts/large/report.html">large</a>' in text


def test_formats_are_written_into_the_folder(whole: RunFolder, tmp_path: Path) -> None:
    assert write(whole).name == "report.html"
    assert write(whole, "md", tmp_path / "x.md").read_text().startswith("# Pair: 2 models")
    with pytest.raises(UsageError, match="format must be one of html, md, csv, png, got 'pdf'"):
        write(whole, "pdf")
