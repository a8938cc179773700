"""Reports in other formats, and the comparison of runs."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_run import make_run
from views import measured, trial, view_of

from autoprune.budget import Cost
from autoprune.errors import UsageError
from autoprune.report import formats
from autoprune.report.read import read
from autoprune.store import DenseReport


def test_markdown_has_the_recommendation_and_every_member(finished_run) -> None:
    file = formats.write(finished_run, "md")
    text, view = file.read_text(), read(finished_run)
    assert file.name == "report.md"
    assert text.startswith("# digits\n")
    assert f"Recommended: trial {view.recommendation.record.number}" in text
    for record in (*view.members, *view.baselines):
        assert f"| trial {record.number}" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {9}


def test_markdown_has_predictions_and_measurements_apart() -> None:
    unmeasured = replace(trial(1, 0.8, None), origin="baseline:uniform-0")
    dense = DenseReport({"accuracy": 0.9}, Cost(macs=200), measured(10.0))
    view = view_of(trial(0, 0.9, 4.0), unmeasured, dense=dense)
    table = [line for line in formats.markdown(view).splitlines() if line.startswith("|")]
    assert table[0].endswith("| predicted latency, ms | measured latency, ms |")
    ends = [line.split("|")[-3:-1] for line in table[2:]]
    assert [[cell.strip() for cell in end] for end in ends] == [
        ["", "10.0"],
        ["5.00", "4.00"],
        ["5.00", ""],
    ]


def test_markdown_has_no_column_of_what_no_model_has() -> None:
    view = view_of(trial(0, 0.9, 4.0, predicted=Cost(macs=100)))
    head = next(line for line in formats.markdown(view).splitlines() if line.startswith("|"))
    assert "measured latency, ms |" in head
    assert "predicted latency" not in head


def test_markdown_has_the_bytes_of_the_file_where_they_are_limited(tmp_path) -> None:
    run = make_run(tmp_path / "run", budget={"file_bytes": 200_000})
    member = read(run).members[0]
    run.append(replace(member, measured=replace(member.measured, file_bytes=45_600)))
    table = [line for line in formats.markdown(read(run)).splitlines() if line.startswith("|")]
    assert "| weights | file, measured | predicted latency, ms |" in table[0]
    assert table[3].split("|")[-4].strip() == "45.6 kB"


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
    with pytest.raises(
        UsageError,
        match=r"PATH: one of chromium.* · without one, .* autoprune.Result.read\(RUN\)",
    ):
        formats.write(finished_run, "png")


@pytest.mark.parametrize(
    ("name", "file", "found"),
    [
        (None, None, "html"),
        (None, "front.csv", "csv"),
        (None, "a/report.md", "md"),
        (None, "page.html", "html"),
        ("md", "notes.txt", "md"),
        ("md", "notes.md", "md"),
        ("csv", None, "csv"),
    ],
)
def test_the_format_is_that_of_the_ending(name: str | None, file: str | None, found: str) -> None:
    assert formats.format_of(name, Path(file) if file else None) == found


@pytest.mark.parametrize("file", ["front.txt", "front"])
def test_an_unknown_ending_is_refused(finished_run, tmp_path, file: str) -> None:
    with pytest.raises(
        UsageError, match=r"must end with one of \.html, \.md, \.csv, \.png · or say"
    ):
        formats.write(finished_run, file=tmp_path / file)
    assert not (tmp_path / file).exists()


def test_a_format_beside_another_ones_ending_is_refused(finished_run, tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r"r\.csv ends like csv, and the format is md · .* or write .*r\.md"
    ):
        formats.write(finished_run, "md", tmp_path / "r.csv")
    assert not (tmp_path / "r.csv").exists()


def test_another_format_is_refused(finished_run) -> None:
    with pytest.raises(UsageError, match="format must be one of html, md, csv, png, got 'pdf'"):
        formats.write(finished_run, "pdf")


def test_a_smaller_dense_model_has_a_row_without_number_and_ratios(tmp_path) -> None:
    run = make_run(tmp_path / "run")
    run.save_smaller([trial(-1, 0.7, 3.0, origin="baseline:smaller net-20", epochs=2.0)])
    view = read(run)
    assert "| net-20, smaller |" in formats.markdown(view)
    with formats.write(run, "csv").open() as file:
        *_, last = csv.DictReader(file)
    assert (last["number"], last["origin"]) == ("", "baseline:smaller net-20")
    assert float(last["metric.accuracy"]) == 0.7
    assert {value for key, value in last.items() if key.startswith("ratio.")} == {""}
