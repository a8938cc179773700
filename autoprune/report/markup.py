"""Small pieces of HTML text; every string that a user wrote goes through `escape`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def escape(value: object) -> str:
    """Text for HTML content and quoted attributes."""
    return html.escape(str(value), quote=True)


def section(title: str, body: str) -> str:
    """A part of the page under its own heading."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def plot(key: str) -> str:
    """The place where the page draws the figure of that name."""
    return f'<div class="plot" data-figure="{key}"></div>'


def folded(title: str, body: str, *, is_open: bool = False) -> str:
    """A part that opens when asked for."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(title)}</summary>{body}</details>"


def facts(named: Mapping[str, Any]) -> str:
    """Names with their values; both are escaped."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in named.items())
    return f"<dl>{rows}</dl>"


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists become text."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        else:
            found[f"{prefix}{key}"] = value
    return found


def heads(names: Iterable[str], *, left: bool = True) -> str:
    """Header cells, the first one to the left."""
    cells = [f"<th>{escape(name)}</th>" for name in names]
    if left:
        cells[0] = cells[0].replace("<th>", '<th class="l">')
    return "".join(cells)


def cell(content: str, label: str, kind: str = "") -> str:
    """A table cell; `label` names it where the table is shown as cards. Content is HTML."""
    data = f' data-label="{escape(label)}"' if label else ""
    return f'<td class="{kind}"{data}>{content}</td>'
