"""YAML as a configuration needs it, with limits, so that no file can hang or exhaust a program.

Files of others are read too (the configuration in a run folder): size, depth and aliases are
bounded before anything is built, and whatever is wrong is one ConfigError line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from autoprune.errors import ConfigError, first_line

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 40
_MAX_VALUES = 100_000  # with every alias written out
_MAX_INTEGER = 10**100
_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, AttributeError, KeyError)


def read_yaml(file: Path, place: str | None = None) -> Any:
    """The content of a YAML file; `place` (by default its name) begins every error.

    Raises ConfigError with the line where it is not YAML, is too large, or is no regular file.
    """
    place = place or file.name
    if file.exists() and not file.is_file():
        raise ConfigError(f"{place} must be a regular file")
    try:
        with file.open("rb") as content:
            data = content.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: not valid YAML: {first_line(error)}") from error
    return parse_yaml(text, place)


def parse_yaml(text: str, place: str) -> Any:
    """The content of YAML text. Raises ConfigError that begins with `place` and the line."""
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{place} must not be larger than {_MAX_BYTES:,} bytes")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{place}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from error
    except _ERRORS as error:  # of a value's own type: `!!int abc`, a month 13
        raise ConfigError(f"{place}: not valid YAML: {first_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """Safe YAML with limits that refuses a key given twice and reads `1e-3` as a number (1.2)."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, f"deeper than {_MAX_DEPTH} levels", mark)
        found: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return found

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, ())
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"duplicate key {key.value}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _bounded_integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    found = int(yaml.SafeLoader.construct_yaml_int(loader, node))
    if abs(found) >= _MAX_INTEGER:  # Python refuses to print integers of thousands of digits
        raise yaml.MarkedYAMLError(None, None, "an integer is too large", node.start_mark)
    return found


_Loader.add_constructor("tag:yaml.org,2002:int", _bounded_integer)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _check_size(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node stands for, each alias written out; `above` are those it lies in."""
    if id(node) in above:
        raise yaml.MarkedYAMLError(None, None, "an alias inside of its own anchor", node.start_mark)
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        size = 1 + sum(_check_size(part, known, (*above, id(node))) for part in inner)
        if size > _MAX_VALUES:
            problem = f"more than {_MAX_VALUES:,} values with the aliases written out"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)
        known[id(node)] = size
    return known[id(node)]
