"""How a model card is written: front matter that the Hub reads, a table, what was pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from autoprune.cards.measured import Measured

CARD = "README.md"
LICENCE = (
    "Those of the dense model, of its code and of the data that it was trained on hold. Whoever "
    "publishes this model names the licence here, and as `license` in the head of this file."
)


@dataclass(frozen=True)
class Card:
    """What a card says; texts are Markdown.

    `library` is what loads the model, `base` the dense model's name on the Hub if it has one;
    `pruned` are the paragraphs on what was removed, and `usage` how the model is loaded.
    """

    title: str
    lead: str
    measured: Measured
    pruned: Sequence[str]
    usage: str
    library: str = "autoprune"
    base: str | None = None

    def text(self) -> str:
        """The content of the file."""
        parts = [self._front_matter(), f"# {self.title}", self.lead, *self._facts()]
        parts += ["## What was pruned", *self.pruned] if self.pruned else []
        parts += ["## How to load it", self.usage, "## Licence", LICENCE]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self) -> str:
        found: dict[str, Any] = {"library_name": self.library}
        if self.base:
            found["base_model"] = self.base
        found["tags"] = ["autoprune", "pruning"]
        if judged := [name for name in self.measured.metrics if "loss" not in name]:
            found["metrics"] = judged
        return f"---\n{yaml.safe_dump(found, sort_keys=False)}---"

    def _facts(self) -> Iterator[str]:
        rows = [(row.label, row.dense, row.pruned) for row in self.measured.rows]
        if rows:
            yield table(("", "dense", "pruned"), rows)
        if self.measured.notes:
            yield " ".join(self.measured.notes)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, whose numbers stand to the right of the first column.

    >>> print(table(("", "dense"), [("width", "8")]))
    |  | dense |
    |---|---:|
    | width | 8 |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|---|{'---:|' * (len(heads) - 1)}", *lines[1:]])


def code(*lines: str) -> str:
    """Lines of Python as a block."""
    return "\n".join(["```python", *lines, "```"])
