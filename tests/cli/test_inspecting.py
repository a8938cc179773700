"""show, report and compare."""

from __future__ import annotations

from pathlib import Path

import joint_run
import pytest


def test_a_report_can_be_written_elsewhere_and_where_it_cannot_is_one_line(
    command_line, shown_run: Path, tmp_path: Path
) -> None:
    code, out, _ = command_line("report", shown_run, "-o", tmp_path / "page.html")
    assert (code, out) == (0, f"wrote {tmp_path / 'page.html'}\n")
    assert not (shown_run / "report.html").exists()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "folder.html" / "inside").touch()
    code, _, err = command_line("report", shown_run, "-o", tmp_path / "folder.html")
    assert (code, err) == (
        2,
        f"error: {tmp_path / 'folder.html'} cannot be written: Is a directory\n",
    )


def test_show_prints_the_front_or_one_trial(command_line, shown_run: Path) -> None:
    code, out, _ = command_line("show", shown_run)
    assert code == 0
    assert "1 model, knee trial 0" in out
    code, out, _ = command_line("show", shown_run, "--trial", 0)
    assert code == 0
    assert "validation  accuracy 90.00 %" in out.replace("\n", " ")
    assert command_line("show", shown_run, "--trial", 7) == (
        2,
        "",
        "error: run has no trial 7 · trials: 0\n",
    )


@pytest.mark.parametrize(
    ("format", "name"), [("html", "report.html"), ("md", "report.md"), ("csv", "front.csv")]
)
def test_a_report_lies_in_the_run(command_line, shown_run: Path, format: str, name: str) -> None:  # noqa: A002
    code, out, _ = command_line("report", shown_run, "--format", format)
    assert (code, out.replace("\n", "")) == (0, f"wrote {shown_run / name}")
    assert (shown_run / name).stat().st_size > 100


def test_the_ending_says_the_format(command_line, shown_run: Path, tmp_path: Path) -> None:
    code, _, _ = command_line("report", shown_run, "-o", tmp_path / "front.csv")
    assert code == 0
    assert (tmp_path / "front.csv").read_text().startswith("number,state,")


def test_an_unknown_format_is_refused(command_line, shown_run: Path) -> None:
    says = "error: format must be one of html, md, csv, png, got 'pdf'\n"
    assert command_line("report", shown_run, "--format", "pdf") == (2, "", says)


def test_the_report_is_opened_where_asked(command_line, shown_run: Path, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    command_line("report", shown_run)
    assert opened == []
    command_line("report", shown_run, "--open")
    assert opened == [(shown_run / "report.html").resolve().as_uri()]


def test_runs_are_compared(command_line, shown_run: Path) -> None:
    code, out, _ = command_line("compare", shown_run, shown_run)
    assert code == 0
    assert "accuracy at MACs of at most" in out
    assert "same configuration and environment" in out
    says = "error: compare needs at least two runs\n"
    assert command_line("compare", shown_run) == (2, "", says)


def test_a_search_from_several_models_is_shown_and_reported(command_line, tmp_path: Path) -> None:
    whole = joint_run.make(tmp_path, large=(0.9, 0.4), small=(0.8, 0.5)).path
    code, out, _ = command_line("show", whole)
    assert code == 0
    assert "recommended is large, trial 0" in out
    code, out, _ = command_line("report", whole, "--format", "csv", "-o", tmp_path / "front.csv")
    assert (code, out) == (0, f"wrote {tmp_path / 'front.csv'}\n")
    code, out, _ = command_line("report", whole)
    assert out.count("wrote ") == 3
    code, _, err = command_line("show", whole, "--trial", 1)
    assert (code, "name one of" in err) == (2, True)
