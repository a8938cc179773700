"""A front in a notebook: a picture and a table."""

from __future__ import annotations

import re

import pytest
from synthetic_run import DEVICE
from views import trial

from autoprune.budget import Cost
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report.notebook import front_html, front_svg

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def front(*records: TrialRecord, source: str = "measured") -> ParetoFront:
    return ParetoFront(OBJECTIVES, records, source=source)  # type: ignore[arg-type]


RECORDS = (trial(0, 0.9, 8.0), trial(1, 0.85, 5.0), trial(2, 0.5, 2.0))


def circles(svg: str) -> list[tuple[float, float, int, str]]:
    found = re.findall(
        r'cx="([\d.]+)" cy="([\d.]+)" r="(\d)" fill="[^"]+"><title>(.*?)</title>', svg
    )
    return [(float(x), float(y), int(r), words) for x, y, r, words in found]


def test_points_lie_between_the_ends_of_the_axes() -> None:
    # 340 wide from 40, 130 high from 150 up
    assert circles(front_svg(front(*RECORDS), recommended=1)) == [
        (40.0, 150.0, 4, "trial 2: 50.00 %"),
        (210.0, pytest.approx(150 - 130 * 0.35 / 0.4, abs=0.05), 6, "trial 1: 85.00 %"),
        (380.0, 20.0, 4, "trial 0: 90.00 %"),
    ]
    words = re.findall(r"<text[^>]*>(.*?)</text>", front_svg(front(*RECORDS)))
    assert words == ["2.00 ms", "8.00 ms", "measured latency", "90.00 %", "50.00 %", "accuracy"]


def test_equal_values_lie_in_the_middle() -> None:
    three = (*OBJECTIVES, Objective("macs"))
    records = [
        trial(n, accuracy, 4.0, measured=Cost(macs=macs, latency_ms=4.0, device=DEVICE))
        for n, (accuracy, macs) in enumerate(((0.9, 200), (0.8, 100)))
    ]
    svg = front_svg(ParetoFront(three, tuple(records), source="measured"))
    assert sorted(circles(svg)) == [
        (210.0, 20.0, 4, "trial 0: 90.00 %"),
        (210.0, 150.0, 4, "trial 1: 80.00 %"),
    ]


@pytest.mark.parametrize(
    "found",
    [
        front(),
        front(RECORDS[0]),
        ParetoFront((Objective("latency_ms"), Objective("macs")), RECORDS),
        ParetoFront((Objective("accuracy", "maximize"), Objective("loss")), RECORDS),
    ],
    ids=["empty", "one", "costs alone", "metrics alone"],
)
def test_what_is_no_curve_has_no_picture(found: ParetoFront) -> None:
    assert front_svg(found) == ""


def rows(page: str) -> list[list[str]]:
    return [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", page)
    ]


def test_a_row_for_each_member_by_rising_cost() -> None:
    counted = Cost(params=10, macs=2000, weight_bytes=40, latency_ms=5.0, device=DEVICE)
    records = (trial(0, 0.9, 8.0, predicted=counted), *RECORDS[1:])
    found = front(*records)
    knee = found.knee
    assert knee is not None
    header, *members = rows(front_html(found, recommended=0))
    assert header == ["trial", "accuracy", "measured latency", "parameters", "MACs", "weights"]
    assert [row[0].partition(" ")[0] for row in members] == ["2", "1", "0"]
    assert members[-1] == ["0 (recommended)", "90.00 %", "8.00 ms", "10", "2.00 k", "40 B"]
    assert [row[0] for row in members if "knee" in row[0]] == [f"{knee.number} (knee)"]
    assert "<caption>3 models on the front</caption>" in front_html(found)
    both = rows(front_html(found, recommended=knee.number))
    assert f"{knee.number} (recommended, knee)" in [row[0] for row in both]


def test_a_count_that_is_an_objective_is_there_once_and_a_prediction_is_called_so() -> None:
    macs = ParetoFront((Objective("accuracy", "maximize"), Objective("macs")), RECORDS)
    assert rows(front_html(macs))[0] == ["trial", "accuracy", "MACs", "parameters", "weights"]
    assert rows(front_html(front(*RECORDS, source="predicted")))[0][2] == "predicted latency"


def test_names_are_escaped() -> None:
    objectives = (Objective("<f1>", "maximize"), Objective("macs"))
    record = trial(0, 0.9, None, metrics={"<f1>": 0.5})
    assert "<f1>" not in front_html(ParetoFront(objectives, (record,)))
