"""Examples in docstrings as blocks of code: Markdown would read their output as text."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Puts a fence around each doctest, up to the next empty line."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with its doctests as code blocks, without their directives.

    >>> print(fenced("A sum.\\n\\n>>> 1 + 1  # doctest: +SKIP\\n2"))
    A sum.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if not inside and line.lstrip().startswith(">>>"):
            found.append("```pycon")
            inside = True
        elif inside and not line.strip():
            found.append("```")
            inside = False
        found.append(line.partition("  # doctest:")[0].rstrip() if inside else line)
    return "\n".join([*found, "```"] if inside else found)
