"""What a try came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["fine", "lost", "doubled", "wrong", "unclear"]
BAD = ("lost", "doubled", "wrong", "unclear")


@dataclass(frozen=True)
class Outcome:
    """`what` says where it went wrong, for whoever mends it."""

    kind: Kind = "fine"
    what: str = ""


Fault = Callable[[Path, int, int], Iterator[Outcome]]
"""(an empty folder, the number of tries, a seed) -> what each try came to."""


def clear(text: str) -> bool:
    """Whether a message is one line of a sensible length, without a traceback."""
    line = text.strip()
    return 0 < len(line) < 1000 and "\n" not in line and "Traceback" not in line
