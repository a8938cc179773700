"""Reasons of failed trials, and freeing their memory."""

from __future__ import annotations

import gc
import traceback

import torch


def reason(error: Exception) -> str:
    """Why a trial failed: one line, then the traceback."""
    kind = type(error).__name__
    if is_out_of_memory(error):
        kind = "out of memory"
    text = str(error).strip().splitlines()
    first = f"{kind}: {text[0]}" if text else kind
    return "\n".join([first, *traceback.format_exception(error)]).rstrip()


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def release_memory() -> None:
    """Free the memory of a failed run."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
