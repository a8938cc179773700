"""Why a model is recommended, in words."""

from __future__ import annotations

from views import trial, view_of

from autoprune.report.why import why


def test_why_says_how_many_there_were() -> None:
    view = view_of(trial(0, 0.9, 6.0), trial(1, 0.895, 5.0), trial(2, 0.7, 4.0))
    assert why(view) == (
        "the lowest measured latency of the 2 models with accuracy within 1 % of dense (≥ 89.10 %)"
    )
    only = view_of(trial(0, 0.9, 6.0), trial(2, 0.7, 4.0))
    assert why(only).startswith("the only model of the front with accuracy within 1 % of dense")
