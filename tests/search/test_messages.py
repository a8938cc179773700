from dataclasses import FrozenInstanceError

import pytest

from autoprune._search.state.messages import Conversion, Report


def test_a_report_without_anything_ends_no_trial() -> None:
    report = Report()
    assert not report.finished
    assert report.epochs == 0.0
    assert (report.error, report.artifact, report.conversion) == (None, None, None)


@pytest.mark.parametrize("message", [Report(1.0), Conversion("int8", {}, "models/1")])
def test_what_was_reported_stays_as_it_is(message: Report | Conversion) -> None:
    with pytest.raises(FrozenInstanceError):
        message.metrics = {"accuracy": 1.0}  # type: ignore[misc]
