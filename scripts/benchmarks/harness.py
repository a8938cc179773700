"""What every benchmark shares: its arguments, where it ran, and its rows in a file under results/.

A benchmark is a module that is run from the top of the repository, `python -m
scripts.benchmarks.latency`. It appends each row to a CSV file as soon as it is measured, in the
place of one with the same key, and makes its Markdown table anew from that file.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock

from autoprune.cost.targets import device_name
from autoprune.store import write_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
CODE = ("autoprune", "scripts", "examples")  # what a row is made by
PACKAGES = ("autoprune", "torch", "onnxruntime", "ray", "optuna", "numpy")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def circumstances(packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """Machine, cores, threads, versions, commit, command and day: columns of every row."""
    return {
        "machine": device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "python": platform.python_version(),
        "commit": commit(),
        "command": command(),
        "date": date.today().isoformat(),
    }


def command() -> str:
    """How this benchmark was started, with its arguments."""
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    return f"python -m {module.removesuffix('.__main__')} {shlex.join(sys.argv[1:])}".rstrip()


@functools.cache
def commit() -> str:
    """The commit of this checkout, `+` where code differs from it or is not in it yet."""
    git = ["git", "-C", str(ROOT)]
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        return "unknown"
    status = [*git, "status", "--porcelain", "--untracked-files=all", "--", *CODE]
    changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    return done.stdout.strip() + ("+" if changed else "")


def stamp(rows: pd.DataFrame) -> str:
    """The circumstances of the last row, and the commits of all, as sentences for their table."""
    last = rows.iloc[-1]
    commits = list(dict.fromkeys(map(str, rows.sort_values("date", kind="stable").commit)))
    others = f" Rows are of the commits {', '.join(commits)}; the CSV has the command of each."
    return (
        f"`{last.command}`: {last.machine}, {last.threads} of {last.cores} cores, Python "
        f"{last.python}, {last.versions}; commit {last.commit}, {last.date}."
        f"{others if len(commits) > 1 else ''}"
    )


class Rows:
    """A CSV file whose rows are identified by the columns `key`.

    `absent` has what columns of the key are for rows that were written before these were there.
    Several processes may write to it: a row is added to those in the file by then, under a lock,
    and the file is replaced as a whole, so that a kill loses nothing.
    """

    def __init__(
        self, path: Path, key: Sequence[str], absent: Mapping[str, int] | None = None
    ) -> None:
        self.path, self.key, self._absent = path, list(key), absent or {}

    def read(self) -> pd.DataFrame:
        """All rows; none where there is no file yet."""
        if not self.path.is_file():
            return pd.DataFrame(columns=self.key)
        rows = pd.read_csv(self.path, dtype={"commit": str})
        for name, value in self._absent.items():
            there = rows[name] if name in rows else pd.Series(value, rows.index)
            rows[name] = there.fillna(value).astype(int)
        return rows

    def find(self, **values: object) -> pd.DataFrame:
        """The rows with these values."""
        rows = self.read()
        for name, value in values.items():
            rows = rows[rows[name] == value]
        return rows

    def put(self, *rows: Mapping[str, object]) -> None:
        """Add `rows`; those in the file with the key of one of them leave."""
        fresh = pd.DataFrame(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            old = self.read()
            replaced = pd.MultiIndex.from_frame(old[self.key]).isin(
                pd.MultiIndex.from_frame(fresh[self.key])
            )
            kept = [] if replaced.all() else [old[~replaced]]
            whole = pd.concat([*kept, fresh], ignore_index=True)
            write_text(self.path, whole.to_csv(index=False))


def table(rows: pd.DataFrame, formats: Mapping[str, tuple[str, str]]) -> str:
    """A Markdown table of the columns in `formats`: column -> (title, format).

    >>> frame = pd.DataFrame({"name": ["a"], "x": [0.25]})
    >>> print(table(frame, {"name": ("network", ""), "x": ("share", ".0%")}))
    | network | share |
    |---|---|
    | a | 25% |
    """
    lines = [[title for title, _ in formats.values()], ["---"] * len(formats)]
    for row in rows.to_dict("records"):
        cells = [(row[name], form) for name, (_, form) in formats.items()]
        lines.append(["–" if pd.isna(value) else format(value, form) for value, form in cells])
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(line.replace("| --- ", "|---").replace("--- |", "---|") for line in text)
