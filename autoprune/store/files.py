"""Single files: replaced in one step, read as checked values, damage said in one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from autoprune.errors import AutopruneError, StoreError, WorkError
from autoprune.printable import printable

T = TypeVar("T")
CHECKSUM = "crc32"
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
_LONGEST = 80  # of a value that an error shows


def write_text(path: Path, text: str) -> Path:
    """Replace a file in one step (write beside, sync, rename); returns the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> Path:
    """The same for content that is no text. Raises as `unwritable`."""
    try:
        return _replaced(path, content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> AutopruneError:
    """WorkError for a full disk, StoreError for what cannot be written at all, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(
            f"{path} cannot be written: the disk is full · free some space and run the same "
            "command again, a search with: autoprune resume; what was finished is saved"
        )
    return StoreError(f"{path} cannot be written: {error.strerror or error}")


def _replaced(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, content: object) -> Path:
    """Replace a JSON file in one step; dataclasses become mappings, with a checksum."""
    found = plain(content)
    found = with_checksum(found) if isinstance(found, dict) else found
    return write_text(path, json.dumps(found, indent=2, allow_nan=False) + "\n")


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the key `CHECKSUM`, by which `parse_json` finds damage.

    It is no protection against whoever wants to change the file.
    """
    return {**content, CHECKSUM: _checksum(content)}


def _check(content: object, place: str) -> None:
    """Remove the checksum, if there is one. Raises StoreError where it is another's."""
    found = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
    if found is not None and found != _checksum(content):
        raise StoreError(f"{place} is damaged: its checksum differs")


def _checksum(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def read_json(path: Path) -> Any:
    """The content of a JSON file; StoreError where it is missing or damaged."""
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return parse_json(text, str(path))


def check_regular(path: Path) -> None:
    """Raise StoreError for what is there and no file: reading from a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} must be a regular file")


def parse_json(text: str, place: str) -> Any:
    """JSON with finite numbers only, its strings without control characters.

    A checksum (see `with_checksum`) is compared and removed. Raises StoreError.
    """
    try:
        content = json.loads(text, parse_float=_finite, parse_constant=_finite)
        _check(content, place)
        return printable(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{place} is damaged: {first_line(error)}") from error


def read(path: Path, wanted: type[T]) -> T:
    """A JSON file as a `wanted`; StoreError with file and key where it is none."""
    return checked(read_json(path), wanted, str(path))


def checked(content: object, wanted: type[T], place: str) -> T:
    """Plain values as a `wanted`, every type checked; StoreError with `place` and key."""
    try:
        kind: Any = wanted
        found: T = _adapter(kind).validate_python(content)
    except ValidationError as error:
        raise StoreError(f"{place} is damaged: {complaint(error)}") from error
    except (AutopruneError, *_DAMAGE, OverflowError) as error:
        raise StoreError(f"{place} is damaged: {first_line(error)}") from error
    return found


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, with its key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "missing":
        return f"{key} is missing"
    shown = repr(first["input"])
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
    return f"{f'{key}: ' if key else ''}{message}, got {shown}"


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line; a missing key says what it is."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__


def plain(value: Any) -> Any:
    """Plain lists, mappings and scalars; what has a `to_dict` says its own form."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


@cache
def _adapter(wanted: Any) -> TypeAdapter[Any]:
    return TypeAdapter(wanted)
