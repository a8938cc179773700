"""One trial in the terminal."""

from __future__ import annotations

import pytest
from views import line_of, text_of

from autoprune.errors import StoreError
from autoprune.report import trial as trials


def test_trial_in_detail_lists_every_group_and_evaluation(view) -> None:
    member = view.members[0]
    text = text_of(trials.trial(view, member.number))
    for name, ratio in member.candidate.architecture.ratios(view.groups).items():
        assert line_of(text, name)[1] == f"{100 * ratio:.0f}"
    assert f"{100 * member.metrics['accuracy']:.2f} %" in text
    assert member.candidate.schedule.kind in text


def test_unknown_trial_is_refused(view) -> None:
    with pytest.raises(StoreError, match="demo has no trial 99 · trials: 0, 1, 2"):
        trials.trial(view, 99)
