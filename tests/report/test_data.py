"""A run with what follows from it: limits, levels, verdicts, gains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_run import DEVICE
from views import config, measured, on_two, text_of, trial, view_of

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost
from autoprune.candidate import Candidate
from autoprune.pareto import Objective, ParetoFront
from autoprune.report import summary, tables, terminal
from autoprune.report.data import RunView
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import DenseReport, SearchPlan

NARROW = Candidate(Architecture({"conv": 4}))


def test_each_level_has_the_best_member_within_it() -> None:
    records = (trial(0, 0.88, 7.0), trial(1, 0.85, 4.9), trial(2, 0.70, 3.5))
    view = view_of(*records)
    assert view.levels == ()
    levels = {"levels": ["50%", "4 ms", "1 ms"]}
    view = replace(view, config=config({"latency_ms": "80%"}, search=levels))
    found = [(value, best and best.number) for _, value, best in view.levels]
    assert found == [(5.0, 1), (4.0, 2), (1.0, None)]
    running = replace(view, front=None)
    assert [best for *_, best in running.levels] == [None, None, None]
    swapped = replace(view, front=replace(view.front, objectives=view.front.objectives[::-1]))
    assert [best and best.number for *_, best in swapped.levels] == [1, 2, None]
    words = str(terminal.summary(view))
    assert "level   latency ≤ 5.00 ms (50 % of dense): trial 1, accuracy 85.00 %" in words
    assert "level   latency ≤ 1.00 ms: no finished model" in words
    page = summary.head(view)
    assert "latency ≤ 4.00 ms · trial 2" in page
    assert "1.00 ms" not in page


def test_a_level_is_of_the_cost_that_the_front_knows() -> None:
    member = trial(
        0, 0.88, None, predicted=Cost(latency_ms=3.45, source="predicted", device=DEVICE)
    )
    dense = DenseReport({}, Cost(latency_ms=10.0, source="predicted", device=DEVICE), measured(9.5))
    view = view_of(member, dense=dense)
    view = replace(
        view,
        config=config({"latency_ms": "80%"}, search={"levels": ["35%"]}),
        front=replace(view.front, source="predicted"),
    )
    assert [(value, best.number) for _, value, best in view.levels] == [(3.5, 0)]


def test_a_level_of_no_objective_counts_models_beside_the_front() -> None:
    small = trial(1, 0.80, 8.0, predicted=Cost(params=40, macs=100))
    view = view_of(trial(0, 0.88, 7.0, predicted=Cost(params=60, macs=100)), small)
    view = replace(view, config=config({"params": 100}, search={"levels": [50]}))
    assert [record.number for record in view.members] == [0]
    assert [best.number for *_, best in view.levels] == [1]


@pytest.mark.parametrize(
    ("latency", "words", "good"),
    [
        (5.0, "2.0× faster than dense, measured", True),
        (7.9, "1.3× faster than dense, measured", True),
        (8.2, "over the budget as measured: 8.20 ms > 8.00 ms", False),
        (None, "latency not measured", None),
    ],
)
def test_verdict_within_a_latency_budget(latency, words, good) -> None:
    record = trial(0, 0.8, latency)
    verdict = view_of(record).verdict(record)
    assert (verdict.text, verdict.good) == (words, good)


@pytest.mark.parametrize(
    ("latency", "words", "good"),
    [
        (9.6, "1.04× faster than dense, measured", True),
        (9.9, "as fast as dense, measured", False),
        (15.0, "1.5× slower than dense, measured", False),
    ],
)
def test_member_that_is_not_faster_is_called_so(latency, words, good) -> None:
    record = trial(0, 0.8, latency)
    verdict = view_of(record, budget={"macs": "50%"}).verdict(record)
    assert (verdict.text, verdict.good) == (words, good)


def test_share_of_dense_is_taken_of_the_dense_cost_by_source() -> None:
    predicted = Cost(macs=200, latency_ms=12.0, source="predicted", device=DEVICE)
    view = view_of(dense=DenseReport({"accuracy": 0.9}, predicted, measured(10.0)))
    ((limit, value),) = view.limits
    assert (value, view.bound(limit, "predicted")) == (pytest.approx(8.0), pytest.approx(9.6))


def test_of_uniform_widths_at_several_rates_the_best_is_the_baseline() -> None:
    first = trial(0, 0.7, 6, origin="seed:uniform-0")
    lower = trial(1, 0.8, 6.1, origin="seed:uniform-0-rate-0")
    higher = trial(2, 0.5, 6.2, origin="seed:uniform-0-rate-1")
    other = replace(trial(3, 0.6, 2, origin="seed:uniform-1"), candidate=NARROW)
    member = trial(4, 0.75, 4.0)
    view = view_of(first, lower, higher, other, member)
    assert view.uniform == (lower, other)
    assert view.baselines == (lower, other)
    # between (2, 0.6) and (6.1, 0.8): 0.6 + 0.2 x 2 / 4.1
    assert view.gain(member) == pytest.approx(0.75 - 0.6 - 0.4 / 4.1)


def test_a_baseline_of_an_earlier_run_above_the_limit_is_none_here() -> None:
    space = FittedSpace.of(SearchSpace.parse({}), {"conv": 8})
    records = [
        trial(n, 0.7, None, origin=origin, predicted=Cost(macs=macs))
        for n, (origin, macs) in enumerate(
            (
                ("from_run:4 seed:uniform-0", 101),
                ("from_run:5 baseline:uniform-1", 100),
                ("from_run:6 baseline:random-0", 300),
                ("baseline:uniform-2", 90),
            )
        )
    ]
    plan = SearchPlan((), (), {"macs": 100.0}, (), space, Cost(macs=200))
    view = view_of(*records, plan=plan)
    assert [record.number for record in view.uniform] == [1, 3]
    assert [record.number for record in view.baselines] == [1, 3]
    assert [record.number for record in view_of(*records).baselines] == [0, 1, 2, 3]


def test_gain_over_uniform_is_read_between_the_two_nearest_baselines() -> None:
    uniform = [trial(n, a, ms, origin="seed:uniform") for n, a, ms in ((0, 0.6, 2), (1, 0.8, 6))]
    better, outside = trial(2, 0.75, 3.0, origin="tpe"), trial(3, 0.9, 7.0, origin="tpe")
    view = view_of(*uniform, better, outside)
    assert view.gain(better) == pytest.approx(0.75 - 0.65)
    assert view.gain(outside) is None
    assert view.gain(uniform[0]) is None
    assert view_of(uniform[0], better).gain(better) is None


def test_baselines_compare_by_prediction_unless_all_were_measured() -> None:
    uniform = [trial(n, a, ms, origin="seed:uniform") for n, a, ms in ((0, 0.6, 2), (1, 0.8, 6))]
    assert view_of(*uniform).gain_source == "measured"
    assert view_of(*uniform, trial(2, 0.7, None, origin="seed:uniform")).gain_source == "predicted"


def test_gain_is_positive_for_the_lower_loss_too() -> None:
    uniform = [trial(n, 0, ms, origin="seed:uniform") for n, ms in ((0, 2), (1, 6))]
    uniform = [replace(r, metrics={"loss": 1.0 - r.number * 0.4}) for r in uniform]
    better = replace(trial(2, 0, 4.0), metrics={"loss": 0.7})
    view = view_of(*uniform, better)
    objectives = (Objective("loss"), Objective("latency_ms"))
    view = replace(view, front=ParetoFront(objectives, view.records, source="measured"))
    assert view.gain(better) == pytest.approx(0.1)


def test_each_device_has_its_part_of_the_verdict() -> None:
    record = trial(
        0,
        0.8,
        None,
        predicted=on_two(4.0, 3.0, "predicted"),
        measured=on_two(None, 2.0, "measured"),
    )
    dense = DenseReport(
        {"accuracy": 0.9}, on_two(8.0, 6.0, "predicted"), on_two(None, 3.0, "measured")
    )
    view = view_of(record, dense=dense)
    devices = {"phone": {}, "server": {}}
    view = replace(view, config=config({"latency_ms@server": "80%"}, devices=devices))
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    front = ParetoFront(objectives, (record,), source="measured", predicted_only=("phone",))
    view = replace(view, front=front, devices={"phone": None, "server": None})
    assert view.latencies == ("latency_ms@phone", "latency_ms@server")
    assert [view.is_predicted_only(field) for field in view.latencies] == [True, False]
    assert view.speedup(record, "latency_ms@phone") is None
    assert view.speedup(record, "latency_ms@server") == pytest.approx(1.5)
    verdict = view.verdict(record)
    assert verdict.text == (
        "2.0× faster than dense on phone, predicted; 1.5× faster than dense on server, measured"
    )
    assert verdict.good is True
    slow = replace(record, measured=on_two(None, 2.9, "measured"))
    over = view.verdict(slow)
    assert (over.text, over.good) == (
        "over the budget as measured: 2.90 ms > 2.40 ms on server",
        False,
    )


def test_ratio_and_noise_are_those_of_each_device() -> None:
    sure = {
        "phone": Confidence((3.9, 4.1), ratio=0.5),
        "server": Confidence((1.8, 2.2), ratio=0.8, spread=0.2),
    }
    record = trial(0, 0.8, None, measured=on_two(4.0, 2.0, "measured", sure))
    dense = DenseReport({"accuracy": 0.9}, None, on_two(9.0, 3.0, "measured"))
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    view = replace(
        view_of(record, dense=dense),
        front=ParetoFront(objectives, (record,), source="measured"),
        devices={"phone": None, "server": None},
    )
    assert view.speedup(record, "latency_ms@phone") == 2.0  # in turns; the medians say 2.25
    assert view.speedup(record, "latency_ms@server") == 1.25
    assert view.verdict(record).text == (
        "2.0× faster than dense on phone, measured; 1.2× faster than dense on server, measured"
    )
    assert terminal._latencies(view, None, record.measured)[1] == "4.00\n~2.00"
    page = tables.models(view)
    assert "4.00<br>~2.00" in page
    said = "Medians are known to ±2.5 to 10 % (95 % confidence). ~ marks noisy ones, "
    assert f"{said}for example: server spread 20%." in page


def test_the_limit_of_predictions_is_said_where_it_is_not_the_measured_one() -> None:
    # 60 % of the predicted 12 ms is 7.2 ms; less a margin of 20 % 6 ms, and of the measured 10 ms
    # without a margin 6 ms, too
    space = FittedSpace.of(SearchSpace.parse({}), {"conv": 8})
    predicted = Cost(macs=200, latency_ms=12.0, source="predicted", device=DEVICE)
    plan = SearchPlan((), (), {"latency_ms": 7.2, "macs": 100.0}, (), space, predicted)
    budget = {"latency_ms": "60%", "macs": "50%"}
    view = view_of(trial(0, 0.9, 5.0), budget=budget, plan=plan)
    assert view.limits_of_predictions == (
        "predicted latency ≤ 7.20 ms (60 % of the predicted 12.0 ms)",
    )
    assert "trained where predicted latency ≤ 7.20 ms" in text_of(terminal.summary(view))
    equal = replace(view, plan=replace(plan, margins={"latency_ms": 0.2}))
    assert equal.limits_of_predictions == ()
    assert view_of(trial(0, 0.9, 5.0)).limits_of_predictions == ()


def test_a_share_of_dense_latency_is_that_measured_in_turns() -> None:
    # the limit is 80 % of the 10 ms that the dense model took once
    def of(latency: float, ratio: float) -> RunView:
        sure = Confidence((7.0, 9.0), ratio)
        return view_of(trial(0, 0.9, None, measured=measured(latency, confidence=sure)))

    slow, late = of(8.1, 0.79), of(7.9, 0.812)
    assert slow.over_budget(slow.records[0]) is None
    assert late.over_budget(late.records[0]) == "7.90 ms, 81.2 % of dense > 80 %"
    absolute = replace(slow, config=config({"latency_ms": 8.0}))
    assert absolute.over_budget(slow.records[0]) == "8.10 ms > 8.00 ms"
