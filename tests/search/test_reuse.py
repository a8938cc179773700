"""A search that continues, and one that starts from what another run knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy
from deep_task import Deep, Wider

import autoprune
from autoprune._search.preparing.reuse import _is_expressible, unmeasured
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import UsageError
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.record import TrialRecord
from autoprune.report.read import read
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder

TASK = Path(__file__).parents[1] / "deep_task.py"
OPTIONS = {
    "space": {"ratios": {"max": 0.8}, "recovery": {"lr": [0.02, 0.05]}},
    "device": {"runtime": "torch"},
    "epochs": 0.5,
    "rungs": 0,
    "concurrent": 1,
    "screen": 4,
    "calibration_samples": 64,
}


class Told(autoprune.Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, config, plan, folder) -> None:
        assert folder.is_dir()
        self.calls.append("start")

    def on_trial(self, record, front) -> None:
        self.calls.append(record.state)

    def on_end(self, front, folder) -> None:
        self.calls.append("end")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


@pytest.fixture(scope="module")
def first(cache: Path, told: Told) -> autoprune.Result:
    return autoprune.search(
        f"{TASK}:Wider",
        budget={"macs": "70%"},
        output=cache / "first",
        trials=4,
        keep=["0"],
        quality={"accuracy": ">= 0.05"},
        baselines={"scratch": True},
        callbacks=[told],
        **OPTIONS,
    )


def test_callbacks_are_told_each_trial(first: autoprune.Result, told: Told) -> None:
    trained = [r for r in first.records if r.state == "complete"]
    assert told.calls == ["start", *["complete"] * len(trained), "end"]


def test_baselines_are_there_and_not_counted(first: autoprune.Result) -> None:
    kinds = [record.baseline for record in first.records if record.baseline]
    assert (kinds.count("uniform") >= 1, kinds.count("random")) == (True, 1)  # others are twins
    counted = [r for r in first.records if r.is_counted and r.state != "infeasible"]
    assert len(counted) == 4
    assert read(first.path).ended_by == "4 trials"
    assert all(r.measured for r in first.records if r.baseline and r.artifact)


def test_the_model_from_scratch_is_no_member_and_its_weights_are_new(
    first: autoprune.Result,
) -> None:
    (record,) = (r for r in first.records if r.baseline == "scratch")
    assert record.epochs == 0.5
    assert record not in first.front.members
    assert first.model(record) is not None


def test_the_layers_and_the_split_are_in_the_run(first: autoprune.Result) -> None:
    view = read(first.path)
    assert view.network is not None
    members = {str(record.number) for record in view.members}
    assert members <= set(view.network.models) - {"dense"}
    assert view.dense.samples == sum(len(y) for _, y in Wider().val_loader())
    macs = sum(view.network.models["dense"].macs)
    assert macs == view.dense.predicted.macs


def test_a_finished_search_goes_on_with_more_trials(cache: Path) -> None:
    run = autoprune.search(
        f"{TASK}:Wider", budget={"macs": "70%"}, output=cache / "more", trials=2, **OPTIONS
    )
    again = autoprune.resume(run.path, trials="+2")
    counted = [r for r in again.records if r.is_counted and r.state != "infeasible"]
    assert len(counted) == 4
    before = [(r.number, r.candidate, r.metrics) for r in run.records]
    assert [(r.number, r.candidate, r.metrics) for r in again.records][: len(before)] == before
    assert RunFolder.open(run.path).config.search.trials == 4
    assert [r.baseline for r in again.records].count("random") == 1


def sensitivities(run: autoprune.Result) -> dict[str, Any]:
    return json.loads((run.path / "sensitivity.json").read_text())


def test_another_budget_uses_what_was_trained(first: autoprune.Result, cache: Path) -> None:
    second = autoprune.search(
        f"{TASK}:Wider",
        budget={"macs": "50%"},
        output=cache / "second",
        from_run=first.path,
        trials=1,
        **OPTIONS,
    )
    reused = [r for r in second.records if r.is_reused]
    known = [r for r in first.records if r.state in ("complete", "stopped")]
    assert [r.candidate for r in reused] == [r.candidate for r in known]
    assert [r.metrics for r in reused] == [r.metrics for r in known]
    before, after = sensitivities(first), sensitivities(second)
    assert (before["kept"]["0"], before["damage"]["0"]) == ([12], [0.0])  # it was kept
    assert len(after["kept"]["0"]) > 1
    assert max(after["damage"]["0"]) > 0.0
    limit = 0.5 * (second.plan.dense.macs or 0)
    for record in reused:
        assert (record.artifact is not None) == ((record.predicted.macs or 0) <= limit)
    for record in second.front.members:
        assert (record.predicted.macs or 0) <= limit
        assert record.measured is not None
        assert second.model(record) is not None
    own = [r for r in second.records if r.is_counted and r.state != "infeasible"]
    assert len(own) == 1
    assert own[0].number == len(reused)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "digits"}, "from_run: .* has task .* this search has 'digits'"),
        ({"epochs": 1.0, "keep": ["0"]}, None),
    ],
)
def test_what_does_not_fit_is_refused_or_left_out(
    first: autoprune.Result, tmp_path: Path, caplog, change: dict, message: str | None
) -> None:
    task = change.pop("task", f"{TASK}:Wider")
    options = {**OPTIONS, "trials": 1, "budget": {"macs": "50%"}, **change}
    options |= {"baselines": {"uniform": 0, "random": 0}}
    if message:
        with pytest.raises(UsageError, match=message):
            autoprune.search(task, output=tmp_path / "run", from_run=first.path, **options)
        assert not (tmp_path / "run").exists()
        return
    found = autoprune.search(task, output=tmp_path / "run", from_run=first.path, **options)
    assert not [r for r in found.records if r.is_reused]
    before, after = sensitivities(first), sensitivities(found)
    assert (after["kept"], after["damage"]) == (before["kept"], before["damage"])
    assert None not in (before["block_factor"], after["block_factor"])
    assert "had 0.5 epochs, those of this search have 1" in caplog.text


class Retrained(Wider):
    """The same architecture with other weights."""

    dense_epochs = 0


@pytest.mark.parametrize(
    ("other", "says"),
    [(Deep, "other groups than this one"), (Retrained, r"has \w+ .* this one")],
)
def test_another_dense_model_does_not_continue_a_run(
    first: autoprune.Result, other: type[Deep], says: str
) -> None:
    before = (first.path / "dense.json").read_bytes()
    with pytest.raises(UsageError, match=f"resume: .*{says}"):
        autoprune.resume(first.path, trials="+1", task=other())
    assert (first.path / "dense.json").read_bytes() == before
    assert len(RunFolder.open(first.path).records()) == len(first.records)


def test_trials_that_the_new_space_has_not_are_left_out() -> None:
    space = SearchSpace.parse({"ratios": {"max": 0.8}})
    plan = toy.make_plan(space=space)
    record = TrialRecord(0, Candidate(Architecture({"a": 8})), "complete", seed=0, origin="tpe")
    assert _is_expressible(record, plan)
    for architecture in (
        Architecture({"a": 8}, precision="int8"),
        Architecture({"a": 8}, patterns={"a.weight": "0.5"}),
        Architecture({"a": 8}, dropped=["block"]),
    ):
        assert not _is_expressible(replace(record, candidate=Candidate(architecture)), plan)


def test_trials_that_prune_what_is_kept_now_are_left_out() -> None:
    space = SearchSpace.parse({"ratios": {"max": 0.5}})
    plan = toy.make_plan(space=space)
    kept = replace(plan, space=FittedSpace.of(space, toy.SIZES, ranges={"a": (0.0, 0.0)}))
    for width, everywhere, here in ((8, True, False), (16, True, True), (7, False, False)):
        record = TrialRecord(
            0, Candidate(Architecture({"a": width})), "complete", seed=0, origin="tpe"
        )
        assert (_is_expressible(record, plan), _is_expressible(record, kept)) == (everywhere, here)
    one = FittedSpace.of(SearchSpace.parse({"depth": {"max": 0.5}}), {}, blocks={"x": (), "y": ()})
    assert [
        _is_expressible(
            replace(record, candidate=Candidate(Architecture(dropped=gone))),
            replace(plan, space=one),
        )
        for gone in (["x"], ["y"], ["x", "y"])
    ] == [True, True, False]


def test_sensitivities_count_where_they_reach_as_far_down_as_the_space() -> None:
    """Ratios of 0.95 are measured, or the largest: of 20 units 1, 4 at most 0.8, 10 at 0.5."""

    def space(most: float, *, depth: bool = True, keep: bool = False) -> FittedSpace:
        given = {"ratios": {"max": most}, "depth": {"max": 1.0} if depth else False}
        ranges = {"conv": (0.0, 0.0)} if keep else {}
        parsed = SearchSpace.parse(given)
        return FittedSpace.of(parsed, {"conv": 20}, blocks={"b": ()}, ranges=ranges)

    def table(conv: int, block: int) -> Sensitivity:
        counts = {"conv": tuple({conv: 0, 20: 0}), "block:b": tuple({block: 0, 1: 0})}
        rises = {name: (0.5, 0.0)[-len(its) :] for name, its in counts.items()}
        return Sensitivity(0.0, counts, rises)

    assert unmeasured(table(4, 0), space(0.8)) == []
    assert unmeasured(table(4, 0), space(0.5, keep=True, depth=False)) == []
    assert unmeasured(table(10, 0), space(0.8)) == ["conv"]
    assert unmeasured(table(20, 0), space(0.8)) == ["conv"]  # it was kept
    assert unmeasured(table(20, 0), space(0.8, keep=True)) == []
    assert unmeasured(table(4, 1), space(0.8)) == ["block:b"]  # there was no depth
    assert unmeasured(table(4, 1), space(0.8, depth=False)) == []
    assert unmeasured(Sensitivity(0.0, {}, {}), space(0.8)) == ["conv", "block:b"]


def test_the_front_is_measured_again(first: autoprune.Result) -> None:
    before = {r.number: r.measured for r in first.front.members}
    again = autoprune.verify(first.path)
    after = {r.number: r.measured for r in again.front.members}
    assert after.keys() <= before.keys() | {r.number for r in first.records}
    assert all(after[number] is not before.get(number) for number in after)
    assert len(again.records) == len(first.records)
