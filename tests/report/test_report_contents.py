"""What a run folder holds, and what can be read off it."""

from __future__ import annotations

from dataclasses import replace

from views import trial, view_of

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.report import (
    summary,
    terminal,
)


def test_a_front_that_is_empty_as_measured_says_by_how_much() -> None:
    view = view_of(trial(3, 0.88, 7.0), over={3: {"latency_ms": 0.25}})
    view = replace(view, front=replace(view.front, records=()))
    words = "all finished models are over the budget as measured: trial 3 by latency 25 %"
    assert words in str(terminal.summary(view))
    assert words[1:] in summary.head(view)
    assert "no finished model yet" in str(terminal.summary(replace(view, over={})))


def test_removed_fractions_are_in_the_models_order_and_whole_groups_lose_nothing() -> None:
    record = replace(trial(0, 0.8, 5.0), candidate=Candidate(Architecture({"b": 12, "a": 4})))
    view = replace(view_of(record, trial(1, 0.9, 6.0)), groups={"b": 16, "a": 8})
    assert list(view.removed(record).items()) == [("b", 0.25), ("a", 0.5)]
    assert set(view.removed(view.records[1]).values()) == {0.0}
