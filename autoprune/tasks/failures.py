"""What a task's own code raises, with the task and the place in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from autoprune.errors import AutopruneError, TaskError

_LONGEST = 300  # characters of a cause
_END = object()
_REMEDIES = {  # part of a message of PyTorch -> what helps
    "Expected more than 1 value per channel when training": "a batch normalization needs two "
    "samples in a batch: leave out the last batch (drop_last=True of a DataLoader)",
}


def name_of(task: object) -> str:
    """What a task is called in messages: its class, or that of the model that `wrap` was given."""
    return str(getattr(task, "shown_name", "") or type(task).__name__)


@contextmanager
def named(what: str, where: str | Callable[[], str] = "") -> Iterator[None]:
    """Foreign errors inside the block become a TaskError that begins with `what`.

    Those of autoprune pass through; the error itself is the cause, with its traceback. `where` may
    be a function, which is called for an error only.

    >>> with named("Mine.loss", "on a batch of train_loader"):
    ...     [][5]
    Traceback (most recent call last):
    autoprune.errors.TaskError: Mine.loss failed on a batch of train_loader: IndexError: list index out of range
    """  # noqa: E501
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:
        place = where() if callable(where) else where
        said = f"{what} failed {place}".rstrip()
        raise TaskError(f"{said}: {_cause(error)}") from error


def read(batches: Iterable[Any], what: str) -> Iterator[Any]:
    """The batches of a loader that is called `what`; what it raises is named."""
    with named(what):
        found = iter(batches)
    while True:
        with named(what):
            batch = next(found, _END)
        if batch is _END:
            return
        yield batch


def _cause(error: Exception) -> str:
    """The kind and the text in one line, with a remedy where one is known.

    Of what a DataLoader's worker raised, the last line.
    """
    lines = str(error).strip().splitlines()
    if lines and "worker process" in lines[0]:
        return lines[-1][:_LONGEST]
    text = " ".join(str(error).split())[:_LONGEST]
    if not text:
        return type(error).__name__
    remedies = [f" · {remedy}" for said, remedy in _REMEDIES.items() if said in text]
    return f"{type(error).__name__}: {text}{''.join(remedies)}"
