"""Reasons of failed trials, and freeing their memory."""

from __future__ import annotations

import gc
import traceback

import torch

from autoprune.errors import TaskError

LONGEST, LONGEST_LINE = 20_000, 500  # characters of a reason and of its first line


def reason(error: Exception) -> str:
    """Why a trial failed: one line, then the traceback."""
    kind = type(error).__name__
    if is_out_of_memory(error):
        kind = "out of memory"
    text = str(error).strip().splitlines()
    first = f"{kind}: {text[0]}" if text else kind
    trace = bounded("".join(traceback.format_exception(error)))
    return f"{bounded(first, LONGEST_LINE)}\n{trace}".rstrip()


def bounded(text: str, most: int = LONGEST) -> str:
    """The text, or where it is longer than `most` characters its beginning and its end.

    >>> bounded("abcdefghij" * 10, 20)
    'abcde … 90 characters … fghij'
    """
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[:end]} … {len(text) - 2 * end} characters … {text[-end:]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python ran out of memory, perhaps in the code of a task."""
    if isinstance(error, TaskError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def release_memory() -> None:
    """Free the memory of a failed run."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
