"""A search that continues, and one that starts from what another run knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from deep_task import Deep, Wider

import autoprune
from autoprune._search.reuse import _is_expressible
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.errors import UsageError
from autoprune.record import TrialRecord
from autoprune.report.read import read
from autoprune.space import SearchSpace
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
        keep=["8"],
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
    names = ("sensitivity.json",)
    for name in names:
        assert json.loads((second.path / name).read_text()) == json.loads(
            (first.path / name).read_text()
        )
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
        ({"epochs": 1.0}, None),
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


def test_the_front_is_measured_again(first: autoprune.Result) -> None:
    before = {r.number: r.measured for r in first.front.members}
    again = autoprune.verify(first.path)
    after = {r.number: r.measured for r in again.front.members}
    assert after.keys() <= before.keys() | {r.number for r in first.records}
    assert all(after[number] is not before.get(number) for number in after)
    assert len(again.records) == len(first.records)
