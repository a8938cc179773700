"""The tree of errors is the one that its docstring draws."""

from __future__ import annotations

import inspect
import re

import pytest

from autoprune import errors


def drawn() -> dict[str, str]:
    """Class -> parent, as the lines of the drawing say by their indentation."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)(\w+(?:Error))\b", line)
        if match:
            depth = len(match[1]) // 4
            found[match[2]] = path[depth - 1] if depth else "Exception"
            path[depth:] = [match[2]]
    return found


def test_the_drawing_is_the_tree() -> None:
    classes = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    }
    assert drawn() == classes
    assert len(classes) == 13


def test_every_error_is_either_the_users_or_the_works() -> None:
    for kind in (errors.UsageError, errors.WorkError):
        assert kind.__bases__ == (errors.AutopruneError,)
    assert not issubclass(errors.WorkError, errors.UsageError)


def test_what_was_measured_travels_with_the_noise() -> None:
    error = errors.NoisyError("too noisy", [1.0, 2.0])
    assert (str(error), error.latencies) == ("too noisy", (1.0, 2.0))
    assert errors.NoisyError("too noisy").latencies == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no message"),
        (" \n ", "no message"),
        ("\n  first\nsecond", "first"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_foreign_error_is_one_short_line(text: str, line: str) -> None:
    assert errors.first_line(ValueError(text)) == line
