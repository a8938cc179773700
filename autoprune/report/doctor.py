"""The checks of a machine in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from autoprune.doctor import Check

_MARKS = {"good": ("ok", "green"), "info": ("", ""), "warn": ("!", "yellow"), "bad": ("bad", "red")}


def render(checks: Sequence[Check]) -> RenderableType:
    """A line each, and how many are not good."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark, style = _MARKS[check.state]
        words = f"{check.text} · {check.remedy}" if check.remedy else check.text
        table.add_row(Text(mark, style), Text(check.name, "bold"), Text(words))
    bad = sum(check.state == "bad" for check in checks)
    warn = sum(check.state == "warn" for check in checks)
    last = f"{bad} bad, {warn} to look at" if bad or warn else "ready"
    return Group(table, Text(last, "red" if bad else "yellow" if warn else "green"))
