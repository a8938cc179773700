"""What is shown of values of others."""

from __future__ import annotations

from autoprune.printable import shown


def test_a_value_is_shown_short_however_large_it_is() -> None:
    nest: list = []
    for _ in range(10_000):
        nest = [nest]
    values: list[object] = [nest, "x" * 10**6, [[0] * 100] * 100, dict.fromkeys(range(1000))]
    assert max(len(shown(value)) for value in values) < 1000
    assert shown({"x": [1, "a"]}) == "{'x': [1, 'a']}"
