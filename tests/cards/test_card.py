"""How a card is written, whatever model it is of."""

from __future__ import annotations

import yaml

from autoprune.cards.card import LICENCE, Card, code, table
from autoprune.cards.measured import Measured, Row

PLAIN = Card("Net, pruned", "A smaller one.", Measured(), (), "Like this.")


def test_a_card_without_facts_has_no_table_and_nothing_that_was_pruned() -> None:
    assert PLAIN.text() == (
        "---\nlibrary_name: autoprune\ntags:\n- autoprune\n- pruning\n---\n\n"
        "# Net, pruned\n\nA smaller one.\n\n"
        f"## How to load it\n\nLike this.\n\n## Licence\n\n{LICENCE}\n"
    )


def test_a_card_has_its_parts_in_order() -> None:
    measured = Measured(
        (Row("parameters", "67", "51"), Row("f1", "0.5", "0.4")),
        ("f1", "loss"),
        ("Of it.", "There."),
    )
    card = Card(
        "Net, pruned",
        "A smaller one.",
        measured,
        ("Dropped: `a`.", table(("weight", "dense"), [("`w`", "3 × 3")])),
        code("import autoprune"),
        library="transformers",
        base="someone/net",
    ).text()
    _, head, rest = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers",
        "base_model": "someone/net",
        "tags": ["autoprune", "pruning"],
        "metrics": ["f1"],  # a loss is no metric of the Hub
    }
    assert rest.startswith(
        "\n# Net, pruned\n\nA smaller one.\n\n"
        "|  | dense | pruned |\n|---|---:|---:|\n| parameters | 67 | 51 |\n| f1 | 0.5 | 0.4 |\n\n"
        "Of it. There.\n\n"
        "## What was pruned\n\nDropped: `a`.\n\n| weight | dense |\n|---|---:|\n| `w` | 3 × 3 |\n\n"
        "## How to load it\n\n```python\nimport autoprune\n```\n\n## Licence\n\n"
    )
