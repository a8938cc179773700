"""Whether a task can be sent to worker processes, found before anything is measured."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ray import cloudpickle

from autoprune.errors import TaskError, first_line
from autoprune.tasks.failures import name_of

_DEEPEST = 6


class _Nowhere(io.RawIOBase):
    """Counts nothing, keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def check_sendable(task: object) -> None:
    """Raise TaskError that names the attribute which cannot be sent to another process."""
    why = _refusal(task)
    if why is None:
        return
    path, value, why = _culprit(task, "", task, why, 0)
    raise TaskError(
        f"{name_of(task)}{path} cannot be sent to worker processes: a "
        f"{type(value).__name__} cannot be pickled ({why}) · make it where it is used, or leave it "
        "out in __getstate__"
    )


def _culprit(
    value: object, path: str, found: object, why: str, depth: int
) -> tuple[str, object, str]:
    """The innermost part of `value` that is refused, with its path and the reason."""
    for name, part in _parts(value) if depth < _DEEPEST else ():
        reason = _refusal(part)
        if reason is not None:
            return _culprit(part, f"{path}{name}", part, reason, depth + 1)
    return path, found, why


def _parts(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{place}]", part) for place, part in enumerate(value)]
    closure = getattr(value, "__closure__", None) or ()
    names = getattr(getattr(value, "__code__", None), "co_freevars", ())
    cells = [(f".{name}", cell.cell_contents) for name, cell in zip(names, closure, strict=False)]
    state = getattr(value, "__getstate__", lambda: None)()
    return [*cells, *((f".{name}", part) for name, part in _named(state, value))]


def _named(state: object, value: object) -> list[tuple[str, object]]:
    """The attributes that pickling would send."""
    found = state if isinstance(state, Mapping) else getattr(value, "__dict__", {})
    return [(str(name), part) for name, part in found.items()]


def _refusal(value: object) -> str | None:
    """Why a value cannot be pickled; None where it can."""
    try:
        pickler = cloudpickle.CloudPickler(  # type: ignore[no-untyped-call]
            io.BufferedWriter(_Nowhere()), protocol=5, buffer_callback=lambda _: None
        )
        pickler.dump(value)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - whatever a foreign __reduce__ raises
        return first_line(error)
    return None
