"""YAML of others: what is refused, in one line and at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoprune.config.limited_yaml import parse_yaml, read_yaml
from autoprune.errors import ConfigError

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "f.yaml:6: not valid YAML: more than 100,000 values with the aliases written out"),
        ("&a [*a]", "f.yaml:1: not valid YAML: an alias inside of its own anchor"),
        ("[" * 50_000, "f.yaml:1: not valid YAML: deeper than 40 levels"),
        ("a: " + "{a: " * 50, "f.yaml:1: not valid YAML: deeper than 40 levels"),
        ("#" * 2_000_000, "f.yaml must not be larger than 1,000,000 bytes"),
        ("[1]: 2", "f.yaml:1: not valid YAML: a key must be a word"),
        ("? {a: b}\n: c", "f.yaml:1: not valid YAML: a key must be a word"),
        ("a: !!int abc", "f.yaml: not valid YAML: invalid literal for int() with base 10: 'abc'"),
        ("a: 2026-13-45", "f.yaml: not valid YAML: month must be in 1..12"),
        ("a: !!timestamp 1-1", "f.yaml: not valid YAML: "),
        ("a: 0x" + "f" * 5000, "f.yaml:1: not valid YAML: an integer is too large"),
        ("!!python/object:os.system x", "f.yaml:1: not valid YAML: could not determine"),
        ("a: 1\na: 2", "f.yaml:2: not valid YAML: duplicate key a"),
    ],
    ids=range(13),
)
def test_what_could_hang_or_break_a_reader_is_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [("a: 1e-3", {"a": 0.001}), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}), ("", None)],
)
def test_what_is_plain_is_read(text: str, value: object) -> None:
    assert parse_yaml(text, "f.yaml") == value


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "budget.yaml")
    with pytest.raises(ConfigError, match=r"budget\.yaml must be a regular file"):
        read_yaml(tmp_path / "budget.yaml")
