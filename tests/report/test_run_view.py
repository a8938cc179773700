from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from synthetic_run import CONFIG, DENSE, DEVICE, ENVIRONMENT, SIZES, make_run

from autoprune.architecture import Architecture
from autoprune.budget import Confidence, Cost, Timing
from autoprune.candidate import Candidate
from autoprune.config import RunConfig
from autoprune.errors import StoreError
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report import front_plot, memory, summary, tables, terminal
from autoprune.report.data import RunView, speedup
from autoprune.report.read import read
from autoprune.store import DenseReport, RunFolder


def measured(latency: float, **more) -> Cost:
    return Cost(latency_ms=latency, source="measured", device=DEVICE, **more)


def trial(number: int, accuracy: float, latency: float | None, **more) -> TrialRecord:
    values = {
        "metrics": {"accuracy": accuracy},
        "predicted": Cost(macs=100, latency_ms=5.0, source="predicted", device=DEVICE),
        "measured": measured(latency) if latency is not None else None,
    }
    return TrialRecord(number, Candidate(Architecture()), "complete", seed=0, **{**values, **more})


def config(budget: dict, **more: object) -> RunConfig:
    return RunConfig.from_dict({"task": "t", "budget": budget, **more})


def view_of(
    *records: TrialRecord,
    budget: dict | None = None,
    dense: DenseReport | None = None,
    **more: object,
) -> RunView:
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    return RunView(
        name="run",
        config=config(budget or {"latency_ms": "80%"}),
        environment={},
        devices={"": None},
        records=records,
        front=ParetoFront(objectives, records, source="measured"),
        finished=True,
        dense=dense or DenseReport({"accuracy": 0.9}, Cost(macs=200), measured(10.0)),
        groups={},
        frozen=(),
        retrained=(),
        importances={},
        wall_s=None,
        **more,
    )


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


def test_a_front_that_is_empty_as_measured_says_by_how_much() -> None:
    view = view_of(trial(3, 0.88, 7.0), over={3: {"latency_ms": 0.25}})
    view = replace(view, front=replace(view.front, records=()))
    words = "all finished models are over the budget as measured: trial 3 by latency 25 %"
    assert words in str(terminal.summary(view))
    assert words[1:] in summary.head(view)
    assert "no finished model yet" in str(terminal.summary(replace(view, over={})))


def test_finished_run_is_read_whole(finished_run, view) -> None:
    assert (view.name, view.task, view.finished) == ("demo", "digits", True)
    assert view.dense.metrics["accuracy"] == DENSE.metrics["accuracy"]
    assert sum(view.states.values()) == len(view.records) == 48
    assert view.states["failed"] == 1
    assert view.groups == SIZES
    assert view.front is not None
    stored = json.loads((finished_run.path / "front.json").read_text())
    assert [r.number for r in view.members] == [m["number"] for m in stored["members"]]
    again = view.retrained[0]
    assert again.number == stored["knee"]
    assert (again.test["accuracy"].mean, again.test["accuracy"].std) == (0.9112, 0.0011)
    found = speedup(again.dense.measured, again.measured, "latency_ms")
    assert found == pytest.approx(1.5 / view.front.knee.measured.latency_ms)
    assert view.wall_s == 1312.4


def test_running_search_shows_the_front_so_far(tmp_path) -> None:
    view = read(make_run(tmp_path / "run", finished=False))
    assert not view.finished
    assert view.front is not None
    assert [o.to_dict() for o in view.front.objectives] == [
        {"name": "accuracy", "direction": "maximize"},
        {"name": "latency_ms", "direction": "minimize"},
    ]
    assert view.members
    assert view.verdict(view.members[0]).text == "latency not measured"


@pytest.mark.parametrize(
    ("metric", "direction", "best"),
    [
        ("wer", "minimize", 0),
        ("fid", "minimize", 0),
        ("terror_f1", "maximize", 2),
        ("loss", "maximize", 2),  # a task may say so
    ],
)
def test_direction_is_that_of_the_plan_until_there_is_a_front(
    tmp_path, metric, direction, best
) -> None:
    run = make_run(tmp_path / "run", trials=0, finished=False)
    objectives = (Objective(metric, direction), Objective("latency_ms"))
    run.save_plan(replace(run.plan(), objectives=objectives, reference=(1.0, 10.0)))
    for number, value in enumerate((0.1, 0.2, 0.3)):
        run.append(trial(number, 0.0, None, metrics={metric: value}))
    view = read(run)
    assert (view.finished, view.metric) == (False, Objective(metric, direction))
    assert [record.number for record in view.members] == [best]
    text = str(terminal.summary(view))
    assert f"1 model so far, knee trial {best}" in text
    better = "lower is better" in json.dumps(front_plot.fronts(view))
    assert better is (direction == "minimize")


def test_without_a_plan_or_a_front_no_direction_is_guessed(tmp_path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    (run.path / "plan.json").unlink()
    view = read(run)
    assert (view.front, view.metric, view.members) == (None, None, ())
    assert len(view.records) == 48
    assert "no finished model yet" in str(terminal.summary(view))


def test_limits_of_a_run_without_a_dense_cost_are_those_of_the_plan(tmp_path) -> None:
    view = read(make_run(tmp_path / "run", trials=3, finished=False))
    assert [value for _, value in view.limits] == pytest.approx([0.6 * 1.40, 0.5 * 40_550_000])


def test_run_without_a_trial_has_no_front(tmp_path) -> None:
    view = read(RunFolder.create(tmp_path / "run", CONFIG, ENVIRONMENT))
    assert (view.front, view.members, view.metric, view.records) == (None, (), None, ())
    assert [value for _, value in view.limits] == [None, None]


def test_folder_that_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(StoreError, match="is not a run folder"):
        read(tmp_path)


def test_damaged_part_is_named(tmp_path) -> None:
    run = make_run(tmp_path / "run", trials=6)
    (run.path / "importances.json").write_text("[1, 2]")
    with pytest.raises(
        StoreError, match=r"importances\.json is damaged: must be a valid dictionary, got \[1, 2\]"
    ):
        read(run)


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


def test_removed_fractions_are_in_the_models_order_and_whole_groups_lose_nothing() -> None:
    record = replace(trial(0, 0.8, 5.0), candidate=Candidate(Architecture({"b": 12, "a": 4})))
    view = replace(view_of(record, trial(1, 0.9, 6.0)), groups={"b": 16, "a": 8})
    assert list(view.removed(record).items()) == [("b", 0.25), ("a", 0.5)]
    assert set(view.removed(view.records[1]).values()) == {0.0}


def on_two(
    phone: float | None,
    server: float | None,
    source: str,
    sure: Mapping[str, Confidence] = MappingProxyType({}),
) -> Cost:
    values = {"phone": phone, "server": server}
    timings = [
        Timing(name, value, None, DEVICE, sure.get(name))
        for name, value in values.items()
        if value is not None
    ]
    return Cost(macs=100, source=source, timings=tuple(timings))


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
    assert terminal._latencies(view, None, record.measured)[2] == "4.00\n~2.00"
    page = tables.models(view)
    assert "4.00<br>~2.00" in page
    said = "Medians are known to ±2.5 to 10 % (95 % confidence). ~ marks noisy measurements, "
    assert f"{said}the worst: server noisy: spread 20%." in page


def test_peak_memory_of_several_devices_says_whose_it_is() -> None:
    sure = {"phone": Confidence((3.9, 4.1)), "server": Confidence((1.8, 2.2))}
    taken = replace(on_two(4.0, 2.0, "measured", sure), peak_memory_bytes=2_000_000)
    record = trial(0, 0.8, None, measured=taken)
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms@phone"))
    view = replace(
        view_of(record),
        front=ParetoFront(objectives, (record,), source="measured"),
        devices={"phone": None, "server": None},
    )
    assert f"in {DEVICE.runtime} (of the one that takes most)" in memory.memory(view)
    assert "2.00 MB" in memory.memory(view)
    untold = replace(record, measured=replace(taken, peak_memory_bytes=None))
    front = ParetoFront(objectives, (untold,), source="measured")
    assert memory.memory(replace(view, front=front)) == ""
