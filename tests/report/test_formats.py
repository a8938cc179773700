"""Reports in other formats, and the comparison of runs."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import pytest
from synthetic_run import make_run

from autoprune.errors import UsageError
from autoprune.report import formats
from autoprune.report.read import read


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


def test_markdown_has_the_bytes_of_the_file_where_they_are_limited(tmp_path) -> None:
    run = make_run(tmp_path / "run", budget={"file_bytes": 200_000})
    member = read(run).members[0]
    run.append(replace(member, measured=replace(member.measured, file_bytes=45_600)))
    table = [line for line in formats.markdown(read(run)).splitlines() if line.startswith("|")]
    assert "| weights | file, measured | latency, ms |" in table[0]
    assert table[3].split("|")[-3].strip() == "45.6 kB"


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
