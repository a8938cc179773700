"""What configurations are read with: replaced keys, paths from a folder, nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoprune.config.limited_yaml import parse_yaml
from autoprune.errors import ConfigError
from autoprune.printable import shown


def set_key(data: dict[str, Any], override: str) -> None:
    """Replace a key as `key=value` says, e.g. `search.trials=5`; the value is YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override} must have the form key=value, e.g. search.trials=5")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = data.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {override}: {parent} is {shown(inner)}, which has no keys inside"
            )
        data = inner
    data[last] = parse_yaml(text, f"--set {shown(override)[1:-1]}")


def anchored(path: str | None, base: Path) -> str | None:
    """A path as it is meant from a folder."""
    return None if path is None else str(base / Path(path).expanduser())


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, or all of them when none is alike."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"nearest: {close[0]}" if close else f"known: {', '.join(names)}"
