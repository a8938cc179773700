"""Smaller dense models: trained like the best candidate of a search, and no trials."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from wide_stripes import WideStripes

import autoprune
from autoprune._search.ending.smaller_training import measured_smaller, train_smaller
from autoprune._search.preparing.smaller_models import smaller_models
from autoprune.architecture import Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.graph import trace
from autoprune.pareto import Objective, ParetoFront
from autoprune.record import TrialRecord
from autoprune.report.formats import markdown
from autoprune.report.read import read
from autoprune.store import RunFolder, read_model
from autoprune.training import RecoveryRun

TASK = f"{Path(__file__).parents[1] / 'wide_stripes.py'}:WideStripes"
BASELINES = {"uniform": 0, "random": 0, "smaller": {"narrow": {"width": 6}}}
BEST = Recovery(lr=0.03, distillation=0.9, regularizer=0.1, features=2.0)


def trial(number: int, accuracy: float, recovery: Recovery) -> TrialRecord:
    return TrialRecord(
        number,
        Candidate(Architecture({"0": 4}), recovery=recovery),
        "complete",
        seed=0,
        metrics={"accuracy": accuracy},
        predicted=Cost(macs=10 + number),
    )


FRONT = ParetoFront(
    (Objective("accuracy", "maximize"), Objective("macs")),
    (trial(0, 0.5, Recovery(lr=0.1)), trial(1, 0.8, BEST)),
)


class Ledger:
    """What the training asks of a ledger."""

    def __init__(self, front: ParetoFront = FRONT, *, is_closed: bool = False) -> None:
        self.is_closed, self._front, self.notes = is_closed, front, list[str]()

    def front(self) -> ParetoFront:
        return self._front

    def show(self, phase: str, note: str) -> None:
        self.notes.append(note)


class Rig:
    """A rig on which every model takes half of the dense model's time."""

    def __init__(self) -> None:
        self.models: list[Any] = []

    def measure(self, models: list[Any]) -> list[tuple[Cost, Cost]]:
        self.models += models
        return [(Cost(macs=1, source="measured"), Cost(macs=2, source="measured"))] * len(models)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    data = {"task": TASK, "budget": {"macs": "70%"}, "search": {"baselines": BASELINES}}
    return RunFolder.create(tmp_path / "run", RunConfig.from_dict(data).to_dict(), {})


@pytest.fixture
def ready(run: RunFolder) -> Any:
    task = WideStripes()
    dense = task.build_model().eval()
    small = smaller_models(run.config, task, dense, {"accuracy": 0.9, "loss": 0.5}, "cpu")
    plan = SimpleNamespace(metric=Objective("accuracy", "maximize"), epochs=1.5, seed=3)
    return SimpleNamespace(
        plan=plan,
        dense=dense,
        smaller=small,
        training_device="cpu",
        rig=Rig(),
        is_offline=False,
    )


def trained(run: RunFolder, ready: Any, ledger: Any = None) -> TrialRecord:
    train_smaller(run, ready, ledger or Ledger(), None)
    (record,) = run.smaller()
    return record


def test_it_is_trained_like_the_best_candidate_with_the_dense_model_as_teacher(
    run: RunFolder, ready: Any
) -> None:
    record = trained(run, ready)
    task = WideStripes(width=6)
    model = task.build_model().eval()
    recovery = replace(BEST, regularizer=0.0, features=0.0)  # neither fits another network
    same = RecoveryRun(
        task,
        model,
        trace(model, task.example_input()),
        Candidate(Architecture(), Selection("l2", repair=False), recovery=recovery),
        epochs=1.5,
        seed=3,
        teacher=WideStripes().build_model().eval(),
    )
    same.advance(1.5)
    state = read_model(run.model_folder(record))[1]
    assert all(torch.equal(value, state[name]) for name, value in same.model.state_dict().items())
    assert (record.metrics, record.epochs) == (same.metrics, 1.5)
    assert (record.number, record.state, record.baseline) == (-1, "complete", "smaller")
    assert (record.title, record.is_counted, record.predicted.params) == ("narrow", False, 87)  # type: ignore[union-attr]


def test_what_is_there_is_not_trained_again_and_what_is_lost_is(run: RunFolder, ready: Any) -> None:
    first = trained(run, ready)
    ledger = Ledger()
    assert (trained(run, ready, ledger), ledger.notes) == (first, [])
    shutil.rmtree(run.model_folder(first))
    assert trained(run, ready, ledger).metrics == first.metrics
    assert ledger.notes == ["training narrow, a smaller dense model"]


@pytest.mark.parametrize(
    "ledger", [Ledger(is_closed=True), Ledger(replace(FRONT, records=()))], ids=["late", "empty"]
)
def test_without_time_or_a_candidate_it_is_not_trained(
    run: RunFolder, ready: Any, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    train_smaller(run, ready, ledger, None)
    assert run.smaller() == ()
    assert "narrow is not trained" in caplog.text


def test_a_failure_is_recorded_and_tried_again(
    run: RunFolder, ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("a broken loss")

    with monkeypatch.context() as patch:
        patch.setattr(type(ready.smaller[0].task), "loss", broken)
        failed = trained(run, ready)
    assert (failed.state, failed.artifact, failed.baseline) == ("failed", None, "")
    assert "a broken loss" in (failed.error or "")
    assert trained(run, ready).state == "complete"


def test_each_is_measured_once_unless_again(run: RunFolder, ready: Any) -> None:
    before = trained(run, ready)
    (found,) = measured_smaller(run, ready)
    assert (found.measured, found.number) == (Cost(macs=1, source="measured"), before.number)
    weights = read_model(run.model_folder(before))[1]
    (model,) = (finished.model for finished in ready.rig.models)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    run.save_smaller([found])
    assert measured_smaller(run, ready) == (found,)
    assert len(ready.rig.models) == 1
    measured_smaller(run, ready, again=True)
    assert len(ready.rig.models) == 2
    ready.is_offline = True
    assert measured_smaller(run, ready, again=True) == (found,)
    assert len(ready.rig.models) == 2


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("smaller")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CACHE", str(folder / "cache"))
        yield autoprune.search(
            TASK,
            budget={"macs": "70%"},
            device={"runtime": "torch"},
            output=folder / "run",
            trials=2,
            epochs=0.5,
            rungs=0,
            concurrent=1,
            screen=0,
            calibration_samples=60,
            baselines=BASELINES,
        )


def test_a_real_search_has_it_beside_the_front(search: autoprune.Result) -> None:
    (record,) = search.smaller
    assert (record.baseline, record.epochs) == ("smaller", 0.5)
    assert record.measured is not None
    assert record.measured.confidence is not None  # in turns with the dense model
    assert record.measured.macs == 1962
    assert len(search.records) == 2
    assert record not in search.front.members
    assert "| narrow, smaller |" in markdown(read(search.path))


def test_it_is_loaded_from_its_folder_and_not_picked(search: autoprune.Result) -> None:
    (record,) = search.smaller
    assert record.artifact is not None
    model = autoprune.load(search.path / record.artifact)
    assert sum(parameter.numel() for parameter in model.parameters()) == 87
    with pytest.raises(UsageError, match=r"narrow is a smaller dense .*models/smaller-narrow$"):
        autoprune.load(search.path, pick="narrow")


def test_it_is_measured_again_with_the_front(search: autoprune.Result) -> None:
    (before,) = search.smaller
    (after,) = autoprune.verify(search.path).smaller
    assert after.measured != before.measured
    assert replace(after, measured=None) == replace(before, measured=None)
