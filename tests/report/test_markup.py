"""Small pieces of HTML: whatever a user wrote stays text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.report import markup

EVIL = '</dd><img src=x onerror="alert(1)" \'&>'


class Seen(HTMLParser):
    """The tags and the text of a piece."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"))))
def test_any_text_is_shown_as_it_is(words: str) -> None:
    seen = Seen(f'<p title="{markup.escape(words)}">{markup.escape(words)}</p>')
    assert seen.tags == ["p"]
    assert seen.attributes == [("title", words)]
    assert "".join(seen.texts) == words


def test_titles_names_values_and_labels_are_escaped() -> None:
    pieces = (
        markup.section(EVIL, ""),
        markup.folded(EVIL, ""),
        markup.facts({EVIL: EVIL}),
        markup.heads([EVIL]),
        markup.cell("", EVIL),
    )
    for piece in pieces:
        assert "img" not in Seen(piece).tags
    assert Seen(markup.facts({EVIL: 3})).texts == [EVIL, "3"]
    assert Seen(markup.cell("", EVIL)).attributes[1] == ("data-label", EVIL)


def test_the_pieces() -> None:
    assert markup.section("A", "<p>b</p>") == "<section><h2>A</h2><p>b</p></section>"
    assert markup.plot("front") == '<div class="plot" data-figure="front"></div>'
    closed = "<details><summary>A</summary>b</details>"
    assert markup.folded("A", "b") == closed
    assert markup.folded("A", "b", is_open=True) == closed.replace("<details", "<details open")
    assert markup.facts({}) == "<dl></dl>"
    assert markup.heads(["a", "b"]) == '<th class="l">a</th><th>b</th>'
    assert markup.heads(["a", "b"], left=False) == "<th>a</th><th>b</th>"
    assert markup.cell("<b>1</b>", "", "l") == '<td class="l"><b>1</b></td>'


@pytest.mark.parametrize(
    ("mapping", "flat"),
    [
        ({}, {}),
        ({"a": 1, "b": None}, {"a": 1, "b": None}),
        ({"a": {"b": {"c": 1}, "d": "x"}}, {"a.b.c": 1, "a.d": "x"}),
        ({"a": [1, "x"], "b": ()}, {"a": "1, x", "b": ""}),
    ],
)
def test_nested_mappings_are_joined_by_dots(mapping: dict, flat: dict) -> None:
    assert markup.flat(mapping) == flat
    assert markup.flat(mapping, "e.") == {f"e.{key}": value for key, value in flat.items()}
