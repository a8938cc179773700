"""The level of other loggers is raised for a while, and only for a while."""

from __future__ import annotations

import logging

import pytest

from autoprune.log_level import log_level


def test_messages_below_are_dropped_inside_the_block_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loud, other = logging.getLogger("loud.library"), logging.getLogger("other.library")
    with log_level("loud.library", below=logging.ERROR):
        loud.warning("dropped")
        loud.error("kept")
        other.warning("not meant")
    loud.warning("after")
    assert caplog.messages == ["kept", "not meant", "after"]


def test_levels_come_back_after_an_error_too() -> None:
    names = ("one.library", "two.library")
    logging.getLogger("one.library").setLevel(logging.INFO)
    inside = []

    @log_level(*names)
    def fail() -> None:
        inside.extend(logging.getLogger(name).level for name in names)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [logging.CRITICAL] * 2
    assert [logging.getLogger(name).level for name in names] == [logging.INFO, logging.NOTSET]
