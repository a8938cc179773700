"""The log level of other libraries, raised for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_level(*loggers: str, below: int = logging.CRITICAL) -> Iterator[None]:
    """Drop messages `below` this level from the named loggers, inside the block only."""
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(below)
    try:
        yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
