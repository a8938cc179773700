"""The checks of a machine in the terminal."""

from __future__ import annotations

import pytest
from views import text_of

from autoprune.doctor import Check
from autoprune.report.doctor import render

GOOD, INFO = Check("torch", "good", "2.9"), Check("int8", "info", "no [bold]dot[/] products")
WARN = Check("load", "warn", "others use 50% of the cores", "wait")
BAD = Check("task", "bad", "none.py does not exist")


def test_a_line_for_each_check_with_its_mark_and_what_to_do() -> None:
    lines = [
        " ".join(line.split()) for line in text_of(render([GOOD, INFO, WARN, BAD])).splitlines()
    ]
    assert lines == [
        "ok torch 2.9",
        "int8 no [bold]dot[/] products",
        "! load others use 50% of the cores · wait",
        "bad task none.py does not exist",
        "1 bad, 1 to look at",
    ]


@pytest.mark.parametrize(
    ("checks", "last"),
    [
        ([], "ready"),
        ([GOOD, INFO], "ready"),
        ([WARN, WARN], "0 bad, 2 to look at"),
        ([BAD], "1 bad, 0 to look at"),
    ],
)
def test_the_last_line_counts_what_is_not_good(checks: list[Check], last: str) -> None:
    assert text_of(render(checks)).splitlines()[-1] == last
