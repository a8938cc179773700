"""One file of a finished run damaged: by bits, cuts, junk, links, pipes."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import nn

import autoprune
from autoprune.errors import AutopruneError
from autoprune.report import html, terminal
from autoprune.report.read import read
from autoprune.store import RunFolder, mend
from autoprune.store.files import CHECKSUM, with_checksum
from scripts.benchmarks.torture.outcome import Outcome, clear
from scripts.benchmarks.torture.processes import ended, prepare, start

JUNK: tuple[Any, ...] = (
    None,
    -1,
    1e300,
    "",
    "</script><script>",
    [],
    {"a": []},
    True,
    "../x",
    2**70,
)
UNCHECKED = ("config.yaml",)  # the user's to edit: no checksum
FORGED = "forged"  # the damage that no reader can tell from what the search wrote
MADE = ("trials.csv", "report.html", "study.db", ".lock", "task.py")  # not read here
SLOWEST_S = 30
Damage = Callable[[Path, random.Random], None]


def damages(place: Path, tries: int, seed: int) -> Iterator[Outcome]:
    """Each on a fresh copy of one finished run."""
    prepare(place / "whole", trials=4)
    process = start(place / "whole", "search", "config.yaml", "--quiet")
    _, said = ended(process)
    if process.returncode != 0:
        raise RuntimeError(said)
    rng, whole = random.Random(seed), place / "whole" / "run"
    expected = looked_at(whole)
    for _ in range(tries):
        copy = place / "copy" / whole.name  # a run is shown with its name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        files = sorted(f for f in copy.rglob("*") if f.is_file() and f.name not in MADE)
        file, damage = rng.choice(files), rng.choice(DAMAGES)
        damage(file, rng)
        yield judged(copy, file, damage.__name__, expected)


def judged(copy: Path, file: Path, damage: str, expected: dict[str, str]) -> Outcome:
    """Look at a damaged run, then mend it and look again."""
    what = f"{damage} of {file.relative_to(copy)}"
    for step in ("read", "mended"):
        try:
            with in_time():
                if step == "mended":
                    mend_run(copy)
                found = looked_at(copy)
        except AutopruneError as error:
            if not clear(str(error)):
                return Outcome("unclear", f"{what}, {step}: {str(error)[:300]}")
            continue
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            return Outcome("unclear", f"{what}, {step}: {type(error).__name__}: {error}"[:400])
        differs = [key for key, value in found.items() if value not in ("", expected[key])]
        told = file.name not in UNCHECKED and damage != FORGED
        if differs and step == "read" and told:
            return Outcome("wrong", f"{what}: another {differs[0]}")
    if not (copy / "records.jsonl").exists() and damage != "deleted":
        return Outcome("lost", f"{what}: the records are gone")
    return Outcome()


def mend_run(copy: Path) -> None:
    """As `resume` begins."""
    run = RunFolder.open(copy)
    with run.writing():
        mend(run, run.config.targets)


def looked_at(copy: Path) -> dict[str, str]:
    """What `show`, `report` and `load` give; empty for what is not there."""
    view = read(copy)
    text = io.StringIO()
    Console(file=text, width=200).print(terminal.show(view))
    page = "".join(html._body(view, html._figures(view)))
    if "<script" in page:
        raise RuntimeError("script in the report")
    place = str(copy)  # lines with it differ
    lines = text.getvalue().splitlines()
    shown = "\n".join(line for line in lines if place not in line)
    output = ""
    if view.front and view.front.members:
        small = autoprune.load(copy, pick="best", model=dense())
        with torch.no_grad():
            output = str(small(torch.linspace(0, 1, 26).reshape(2, 13)).tolist())
    return {"table": shown if view.finished else "", "model": output}


def dense() -> nn.Module:
    """The architecture of the task."""
    return nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))


@contextmanager
def in_time() -> Iterator[None]:
    """RuntimeError for what takes too long."""

    def late(number: int, _: FrameType | None) -> None:
        raise RuntimeError("hang")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SLOWEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flipped(file: Path, rng: random.Random) -> None:
    """One bit."""
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


def cut(file: Path, rng: random.Random) -> None:
    """The end is missing."""
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data) + 1)])


def zeros(file: Path, rng: random.Random) -> None:
    """A stretch of zeros, as a lost block leaves."""
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data) + 1)
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    file.write_bytes(bytes(data))


def noise(file: Path, rng: random.Random) -> None:
    """Other content altogether."""
    file.write_bytes(rng.randbytes(rng.randrange(2000)))


def deep(file: Path, rng: random.Random) -> None:
    """Nested without end."""
    file.write_text(rng.choice("[{") * 100_000)


def deleted(file: Path, _: random.Random) -> None:
    """Gone."""
    file.unlink()


def piped(file: Path, _: random.Random) -> None:
    """A pipe in its place."""
    file.unlink()
    os.mkfifo(file)


def folder_instead(file: Path, _: random.Random) -> None:
    """A folder in its place."""
    file.unlink()
    file.mkdir()


def edited(file: Path, rng: random.Random) -> None:
    """A value of another kind at some key of a JSON file; the checksum is that of before."""
    _with_junk(file, rng, lambda content: content)


def forged(file: Path, rng: random.Random) -> None:
    """The same with a checksum that fits: made by someone, not by accident."""
    _with_junk(file, rng, lambda content: with_checksum(without_checksum(content)))


def _with_junk(file: Path, rng: random.Random, finish: Callable[[Any], Any]) -> None:
    try:
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        at = rng.randrange(len(lines))
        content = json.loads(lines[at])
    except (ValueError, UnicodeDecodeError):
        noise(file, rng)
        return
    found = [each for each in places(content) if each[1] != CHECKSUM]
    if found:
        inner, key = rng.choice(found)
        inner[key] = rng.choice(JUNK)
        content = finish(content)
    else:  # an empty object or list
        content = rng.choice(JUNK)
    lines[at] = json.dumps(content)
    file.write_text("\n".join(lines) + "\n")


def without_checksum(content: Any) -> dict[str, Any]:
    """A JSON object as it was before it was given its checksum."""
    return {key: value for key, value in content.items() if key != CHECKSUM}


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of nested JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    found = []
    for key, value in items:
        found.append((content, key))
        found += places(value) if isinstance(value, dict | list) else []
    return found


DAMAGES: tuple[Damage, ...] = (
    *(
        flipped,
        flipped,
        cut,
        zeros,
        noise,
        deep,
        deleted,
        piped,
        folder_instead,
        edited,
        forged,
        forged,
    ),
)
