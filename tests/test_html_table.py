"""Tables for notebooks."""

from __future__ import annotations

from autoprune.html_table import html_table


def test_numbers_are_short_and_texts_escaped() -> None:
    page = html_table("<1>", ["a", "b&c"], [["<b>", 0.123456], ["2", 1234567.0], ["", 12345.67]])
    assert page == (
        "<table><caption>&lt;1&gt;</caption><tr><th>a</th><th>b&amp;c</th></tr>"
        "<tr><td>&lt;b&gt;</td><td>0.1235</td></tr><tr><td>2</td><td>1,234,567</td></tr>"
        "<tr><td></td><td>12,346</td></tr></table>"
    )
