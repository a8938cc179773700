"""Rows of a benchmark on disk, and that every benchmark is listed and can be started."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from scripts.benchmarks import harness
from scripts.benchmarks.harness import RESULTS, ROOT, Rows

BENCHMARKS = Path(harness.__file__).parent


def test_a_row_replaces_the_one_with_its_key(tmp_path: Path) -> None:
    file = Rows(tmp_path / "deep" / "a.csv", ["model", "seed"])
    assert file.read().empty
    file.put({"model": "a", "seed": 0, "x": 1.0}, {"model": "a", "seed": 1, "x": 2.0})
    file.put({"model": "a", "seed": 0, "x": 3.0, "new": "column"})
    assert file.find(model="a", seed=0).x.tolist() == [3.0]
    assert file.find(model="a", seed=1).x.tolist() == [2.0]
    assert file.find(model="b").empty
    assert file.read().new.isna().tolist() == [True, False]


def test_rows_from_before_a_column_of_the_key_keep_their_place(tmp_path: Path) -> None:
    Rows(tmp_path / "a.csv", ["model"]).put({"model": "a", "x": 1.0}, {"model": "b", "x": 2.0})
    file = Rows(tmp_path / "a.csv", ["model", "dense"], absent={"dense": 0})
    assert file.find(model="a", dense=0).x.tolist() == [1.0]
    file.put({"model": "a", "dense": 40, "x": 3.0})
    assert file.find(model="a", dense=0).x.tolist() == [1.0]
    Rows(tmp_path / "a.csv", ["model", "x"]).put({"model": "c", "x": 4.0})
    file.put({"model": "a", "dense": 0, "x": 5.0})
    assert sorted(zip(file.read().dense, file.read().x, strict=True)) == [
        *[(0, 2.0), (0, 4.0), (0, 5.0)],
        (40, 3.0),
    ]


def test_two_writers_lose_no_rows(tmp_path: Path) -> None:
    one, other = (Rows(tmp_path / "a.csv", ["n"]) for _ in range(2))
    one.put({"n": 0})
    other.put({"n": 1})
    one.put({"n": 2})
    assert sorted(other.read().n) == [0, 1, 2]


def test_a_row_says_how_it_was_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = str(BENCHMARKS / "graph" / "__main__.py")
    monkeypatch.setattr("sys.argv", [started, "--models", "resnet18"])
    about = harness.circumstances(["torch"])
    assert about["command"] == "python -m scripts.benchmarks.graph --models resnet18"
    assert harness.stamp(pd.DataFrame([about])).startswith(f"`{about['command']}`: ")
    assert set(about) > {"machine", "cores", "threads", "versions", "python", "commit", "date"}


@pytest.mark.parametrize(
    ("path", "is_marked"),
    [
        ("autoprune/kept.py", True),
        ("scripts/new.py", True),
        ("examples/deep/new.py", True),
        ("results/rows.csv", False),
    ],
)
def test_a_commit_is_marked_where_code_is_changed_or_new(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, is_marked: bool
) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, text=True, capture_output=True
        )
        return done.stdout.strip()

    (tmp_path / "autoprune").mkdir()
    (tmp_path / "autoprune" / "kept.py").write_text("x = 1\n")
    for words in (["init"], ["add", "."], ["commit", "-m", "first"]):
        git(*words)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    head = git("rev-parse", "--short", "HEAD")
    assert harness.commit.__wrapped__() == head
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("x = 2\n")
    assert harness.commit.__wrapped__() == head + ("+" if is_marked else "")


def test_a_table_formats_each_column_and_marks_what_is_missing() -> None:
    rows = pd.DataFrame({"name": ["a", "b"], "share": [0.25, None], "other": [1, 2]})
    assert harness.table(rows, {"name": ("network", ""), "share": ("MACs", ".0%")}) == (
        "| network | MACs |\n|---|---|\n| a | 25% |\n| b | – |"
    )


def modules() -> list[str]:
    """Every module of a benchmark that can be run, as the index names it."""
    found = []
    for file in BENCHMARKS.rglob("*.py"):
        if '__name__ == "__main__"' in file.read_text():
            parts = file.relative_to(BENCHMARKS).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__main__"))
    return found


def test_the_index_lists_every_benchmark_with_results_that_are_there() -> None:
    index = (BENCHMARKS / "README.md").read_text()
    assert sorted(re.findall(r"^\| `([\w.]+)`", index, re.MULTILINE)) == sorted(modules())
    links = re.findall(r"\]\(\.\./\.\./results/([^)]+)\)", index)
    assert links
    assert [link for link in links if not (RESULTS / link).is_file()] == []


@pytest.mark.parametrize("module", modules())
def test_every_benchmark_finds_what_it_imports(module: str) -> None:
    name = f"scripts.benchmarks.{module}"
    if (BENCHMARKS / module / "__main__.py").is_file():
        name += ".__main__"
    assert importlib.import_module(name).main.__module__ == name


def test_no_committed_report_is_over_one_megabyte() -> None:
    reports = list((ROOT / "results").glob("cifar10-resnet20/*.html"))
    assert reports
    assert [file.name for file in reports if file.stat().st_size > 1_000_000] == []


def test_a_command_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ROOT / "scripts" / "benchmarks" / "equal_cost" / "__main__.py"
    monkeypatch.setattr("sys.argv", [str(module), "resnet8", "--methods", "random, best of 8"])
    wanted = "python -m scripts.benchmarks.equal_cost resnet8 --methods 'random, best of 8'"
    assert harness.command() == wanted


def test_a_table_of_several_commits_names_all_of_them_by_date() -> None:
    about = harness.circumstances()
    old = {**about, "commit": "aaa", "date": "2026-01-02"}
    older = {**about, "commit": "bbb", "date": "2026-01-01"}
    one, several = (
        harness.stamp(pd.DataFrame([old])),
        harness.stamp(pd.DataFrame([old, older, old])),
    )
    assert "commits" not in one
    assert "; commit aaa, 2026-01-02. Rows are of the commits bbb, aaa; " in several
