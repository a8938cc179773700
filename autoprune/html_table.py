"""A small HTML table of numbers, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Rows of texts and numbers under their heads; everything is escaped.

    >>> html_table("", ["n"], [[1]])
    '<table><caption></caption><tr><th>n</th></tr><tr><td>1</td></tr></table>'
    """
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = ("".join(f"<td>{escape(_shown(value))}</td>" for value in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in (heads, *lines))
    return f"<table><caption>{escape(caption)}</caption>{body}</table>"


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"
