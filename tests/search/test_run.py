"""The parts of a real search around its trials: preparing, the first candidates, measuring."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import readme_task
import torch
from stripes import Stripes
from torch import nn

import autoprune
from autoprune._search.initial.seeding import seeds
from autoprune._search.measuring import target_devices
from autoprune._search.measuring.target_devices import FinishedModel
from autoprune._search.measuring.verify import verify
from autoprune._search.preparing.context import make_context, measure_sensitivity
from autoprune._search.preparing.prepare import Prepared, prepare
from autoprune._search.run import _sensitivity, run
from autoprune._search.trials.trainable import Spec
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import Architecture
from autoprune.budget import Budget, Cost
from autoprune.config import RunConfig
from autoprune.errors import BudgetError, ConfigError, StoreError, TaskError
from autoprune.profile import fit_device
from autoprune.pruning.sensitivity import Sensitivity
from autoprune.record import TrialRecord
from autoprune.report.read import read
from autoprune.space import FittedSpace, SearchSpace
from autoprune.store import RunFolder
from autoprune.tasks.base import Task
from autoprune.tasks.load import load_task

SPACE = {"ratios": {"max": 0.75}, "round_to": 4, "recovery": {"lr": [0.02, 0.05]}}


class Ready(Stripes):
    dense_epochs = 0  # as it is: what is tested here does not need a good model


def config(**changes: Any) -> RunConfig:
    search = {"epochs": 0.5, "rungs": 1, "calibration_samples": 64, **changes.pop("search", {})}
    spec = {"task": "stripes:Ready", "budget": {"macs": "60%"}, "train_on": "cpu", "space": SPACE}
    return RunConfig.from_dict({**spec, **changes, "search": search})


def quiet(note: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def ready() -> Prepared:
    torch.manual_seed(0)
    return prepare(config(), Ready(), quiet)


@pytest.fixture
def context(ready: Prepared, tmp_path: Path) -> WorkerContext:
    threads = torch.get_num_threads()
    made = make_context(config(), Ready(), ready, str(tmp_path), quiet)
    assert torch.get_num_threads() == threads
    return made


def test_the_plan_says_what_the_configuration_says(ready: Prepared) -> None:
    plan = ready.plan
    assert [(o.name, o.direction) for o in plan.objectives] == [
        ("accuracy", "maximize"),
        ("macs", "minimize"),
    ]
    assert plan.milestones == (0.25, 0.5)
    # conv 3x3 on 8x8: 6*6*16*9, then 4*4*16*16*9, and 16*3
    assert plan.dense.macs == 6 * 6 * 16 * 9 + 4 * 4 * 16 * 16 * 9 + 16 * 3
    assert plan.reference == (ready.metrics["accuracy"] / 2, float(plan.dense.macs or 0))
    assert plan.margins == {}


def test_the_first_candidates_come_from_sensitivities(
    ready: Prepared, context: WorkerContext
) -> None:
    assert context.calibration is not None
    sensitivity = measure_sensitivity(config(), Ready(), ready, context.calibration, quiet)
    found = seeds(ready.plan, sensitivity.at)
    assert found[0].origin == "seed:uniform-0"
    assert len({proposal.candidate.key for proposal in found}) == len(found)
    assert all(ready.plan.allows(ready.plan.cost(p.candidate)) for p in found)


def test_the_factor_of_blocks_is_settled_for_the_budget_of_the_search(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run's sensitivities come without one."""
    space = FittedSpace.of(SearchSpace.parse({}), {"a": 4}, blocks={"b": (), "c": ()})
    calls: list[object] = []

    def settle(config, task, ready, calibration, table, say, *, scores):  # type: ignore[no-untyped-def]
        calls.append(table)
        return replace(table, block_factor=4.0)

    monkeypatch.setattr("autoprune._search.run.settle_blocks", settle)
    counts = {"a": (2, 4), "block:b": (0, 1), "block:c": (0, 1)}
    known = Sensitivity(0.0, counts, dict.fromkeys(counts, (0.5, 0.0)))
    folder.save_sensitivity(known.to_dict())
    ready: Any = SimpleNamespace(plan=SimpleNamespace(space=space))
    context: Any = SimpleNamespace(calibration=object(), scores=None)
    for _ in range(2):  # the second time it is known
        found = _sensitivity(config(), Ready(), folder, ready, context, quiet)
        assert found is not None
        assert (found("block:b", 0), found("a", 2)) == (2.0, 0.5)
    assert calls == [known]


def test_a_trial_is_trained_saved_loaded_and_measured(
    ready: Prepared, context: WorkerContext, tmp_path: Path
) -> None:
    context.prepare()
    candidate = seeds(ready.plan)[0].candidate
    trial = context.start(Spec(3, candidate, 0))
    trial.advance()
    assert not trial.finished
    trial.save(str(tmp_path / "state"))
    again = context.start(Spec(3, candidate, 0))
    again.restore(str(tmp_path / "state"))
    again.advance()
    report = again.report()
    assert (report.finished, report.artifact) == (True, "models/3")
    assert [entry["epoch"] for entry in report.history] == pytest.approx([0.25, 0.5], abs=0.1)

    predicted = ready.plan.cost(candidate)
    record = TrialRecord(
        3,
        candidate,
        "complete",
        seed=0,
        metrics=report.metrics,
        predicted=predicted,
        artifact=report.artifact,
    )
    small = ready.rig.load(tmp_path / "models" / "3")
    assert Ready().evaluate(small.model, "val")["accuracy"] == report.metrics["accuracy"]
    saved: list[TrialRecord] = []
    plan = ready.plan

    def save(found: TrialRecord, dense: Cost) -> None:
        assert dense.source == "measured"
        saved.append(found)

    verified = verify([record], RunFolder(tmp_path), ready.rig, plan, save)
    (member,) = verified.front.members
    assert member.measured is not None
    assert member.measured.macs == predicted.macs
    assert member.measured.source == "measured"
    assert (member.measured.latency_ms or 0.0) > 0.0
    assert verified.dense is not None
    assert saved == [member]

    worse = replace(record, number=4, metrics={"accuracy": 0.0}, origin="seed:uniform-0")
    saved.clear()
    verified = verify([record, worse], RunFolder(tmp_path), ready.rig, plan, save)
    assert [r.number for r in verified.front.members] == [3]
    assert [(r.number, r.measured is not None) for r in saved] == [(3, True), (4, True)]

    tight = replace(plan, budget=Budget((replace(plan.budget.limits[0], value=0.1),)))
    verified = verify([record], RunFolder(tmp_path), ready.rig, tight, save)
    assert len(verified.front) == 0
    assert verified.over[3]["macs"] > 0.0
    saved.clear()
    again = verify([member], RunFolder(tmp_path), ready.rig, tight, save, verified.dense)
    assert (len(again.front), list(again.over), saved) == (0, [3], [])  # judged, not measured again


class Broken(Ready):
    def evaluate(self, model: nn.Module, split: Any) -> dict[str, float]:
        return {"accuracy": math.nan}


def test_a_dense_model_that_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TaskError, match=r"Broken.*accuracy.*nan"):
        prepare(config(), Broken(), quiet)


def test_a_budget_that_no_model_meets_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(BudgetError, match=r"budget\.macs must be at least .*smallest model"):
        run(config(budget={"macs": 10}), Ready(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused_first(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {}, {})
    with pytest.raises(StoreError, match="holds another run"):
        run(config(), Broken(), tmp_path / "run")


@pytest.mark.parametrize(
    ("objectives", "says"),
    [
        (["accuracy", "mcs"], r"'mcs' is neither .*nearest: macs"),
        (["macs"], r"must hold the task's metric \(accuracy\)"),
        (["accuracy", "macs", "macs"], "nothing twice"),
    ],
)
def test_objectives_that_do_not_fit_are_named(objectives: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        prepare(config(search={"objectives": objectives}), Ready(), quiet)


def phone(folder: Path, task: Task) -> Path:
    """A profile of the task's model that says it was made on another machine."""
    made = fit_device(task, "torch", samples=10).to_dict()
    made["device"]["name"] = "a phone"
    (folder / "phone.json").write_text(json.dumps(made))
    return folder / "phone.json"


def test_where_the_only_device_is_another_machine_nothing_is_measured(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    task = f"{readme_task.write(tmp_path)}:Wine"
    profile = phone(tmp_path, load_task(task))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this machine's latency says nothing of the phone's")

    monkeypatch.setattr(target_devices, "measured_or_flagged", refuse)
    found = autoprune.search(
        task,
        budget={"latency_ms": "900%", "macs": "60%"},  # wide: a busy machine decides nothing
        device=profile,
        space="quick",
        output=tmp_path / "run",
        trials=2,
        epochs=1,
        rungs=0,
        concurrent=1,
        screen=0,
    )
    assert (found.front.source, len(found.front) > 0) == ("predicted", True)
    for record in found.records:
        assert record.measured is None
        assert record.predicted is not None
        assert record.predicted.device is not None
        assert record.predicted.device.name == "a phone"
    assert json.loads((found.path / "dense.json").read_text())["measured"] is None
    view = read(found.path)
    assert view.is_predicted_only("latency_ms")
    assert view.verdict(found.front.members[0]).text.endswith("dense, predicted")


def test_a_profile_that_no_limit_needs_still_says_where_latencies_count(tmp_path: Path) -> None:
    found = prepare(
        config(device=str(phone(tmp_path, Ready())), budget={"macs": "60%"}), Ready(), quiet
    )
    assert found.is_offline
    assert found.plan.dense.latency_ms is not None


def test_a_device_without_a_limit_is_measured_and_not_predicted() -> None:
    devices = {"server": {"runtime": "torch"}, "other": {"runtime": "torch", "batch": 2}}
    found = prepare(config(devices=devices, budget={"macs": "60%"}), Ready(), quiet)
    assert (found.plan.dense.names, found.plan.margins, found.is_offline) == ((), {}, False)
    ((cost, beside),) = found.rig.measure([FinishedModel(found.dense)])
    assert cost.names == beside.names == ("server", "other")
    assert [d.batch for name in cost.names if (d := cost.device_of(name))] == [1, 2]
    assert cost.macs == found.plan.dense.macs


def test_a_search_that_is_resumed_before_its_first_trial_checks_its_predictions_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def killed(ready: Prepared, chosen: Sequence[Architecture], say: object) -> Prepared:
        checked.append(len(chosen))
        raise SystemExit

    monkeypatch.setattr("autoprune._search.run.correct", killed)
    for resume in (False, True):
        with pytest.raises(SystemExit):
            run(config(), Ready(), tmp_path / "run", resume=resume)
    assert len(checked) == 2
    assert checked[0] == checked[1] > 0
