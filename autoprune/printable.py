"""Text that can be shown: without control characters, and bounded."""

from __future__ import annotations

import re
import reprlib
import shlex
from pathlib import Path
from typing import Any

# C0 without tab and newline, DEL, C1, and what turns the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxlevel = 6


def counted(number: float, word: str) -> str:
    """So many of what the word says.

    >>> counted(1, "epoch"), counted(2.5, "epoch")
    ('1 epoch', '2.5 epochs')
    """
    return f"{number:g} {word}{'s' * (number != 1)}"


def printable(value: Any) -> Any:
    """The same without control characters in any string, which could steer a terminal.

    >>> printable({"error": "red \\x1b[31mtext\\n"})
    {'error': 'red [31mtext\\n'}
    """
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def shown(value: object) -> str:
    """A value as an error shows it: bounded, however large or nested it is.

    >>> shown("a" * 1000)[:4], len(shown("a" * 1000)), shown({"x": [1]})
    ("'aaa", 80, "{'x': [1]}")
    """
    return " ".join(_SHORT.repr(value).split())


def quoted(path: str | Path) -> str:
    """A path as a word of a shell command, for commands to copy.

    >>> quoted("results/wine"), quoted("results/my run")
    ('results/wine', "'results/my run'")
    """
    return shlex.quote(str(path))
