"""Text that cannot steer a terminal."""

from __future__ import annotations

import re
from typing import Any

# C0 without tab and newline, DEL, C1, and what turns the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


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
