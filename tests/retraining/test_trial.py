"""A retraining of a run's trial: what is refused, what is written."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_run
from small_run import Pair
from torch import nn

from autoprune._retraining.planning import for_length
from autoprune._retraining.trial import retrain_trial
from autoprune.errors import StoreError, TaskError, TrainingError, UsageError
from autoprune.loading import load
from autoprune.quantization import twin_of
from autoprune.schedule import Schedule
from autoprune.store import (
    QuantizationSettings,
    RateTrial,
    RetrainingFolder,
    RetrainingPlan,
    RetrainingSummary,
    RunFolder,
)
from autoprune.training import RecoveryRun

OFFLINE = {  # nothing is measured: the only device is another machine
    "device": {"name": "a phone", "runtime": "torch", "dtype": "float32", "batch": 1, "threads": 1}
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = small_run.make(tmp_path)
    made.save_profile("", OFFLINE)
    return made


def retrained(run: RunFolder, number: int = 0, **options: Any) -> RetrainingFolder:
    found = {"epochs": 1.0, "seeds": (3,), **options}
    return retrain_trial(run, run.config, Pair(), run.records()[number], **found)


def test_what_was_trained_is_written_and_done_once(run: RunFolder) -> None:
    folder = retrained(run, recovery={"lr": 0.02, "distillation": 0.0})
    summary = folder.summary()
    assert (summary.number, summary.seeds, summary.epochs) == (0, (3,), 1.0)
    assert (summary.candidate.recovery.lr, summary.candidate.recovery.distillation) == (0.02, 0.0)
    small = summary.measured
    assert small is not None
    assert (small.params, small.macs, small.latency_ms) == (8 * 6 + 3, 7 * 6, None)
    assert not folder.checkpoints.exists()
    model = load(folder.path, task=Pair())
    assert Pair().evaluate(model, "test")["accuracy"] == summary.test["accuracy"].mean
    before = (folder.path / "summary.json").read_bytes()
    assert retrained(run, recovery={"lr": 0.02, "distillation": 0.0}).summary() == summary
    assert (folder.path / "summary.json").read_bytes() == before


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_further_seeds_are_added_to_finished_ones(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """As trained together, without training or testing the first ones again."""
    record = run.records()[0]
    record = replace(record, candidate=record.candidate.in_precision(precision))
    options: dict[str, Any] = {"epochs": 1.0, "recovery": {"lr": 0.02}}
    retrained = partial(retrain_trial, run, run.config, Pair(), record)
    first = retrained(seeds=(3,), **options).summary()
    tested: list[str] = []
    evaluate = Pair.evaluate

    def counted(task: Pair, model: nn.Module, split: Any) -> Any:
        tested.append(split)
        return evaluate(task, model, split)

    monkeypatch.setattr(Pair, "evaluate", counted)
    trained: list[int] = []
    options["on_entry"] = lambda seed, entry: trained.append(seed)
    folder = retrained(seeds=(3, 4), **options)
    both = folder.summary()
    assert set(trained) == {4}
    assert tested.count("test") == 2  # the new seed's model and the dense one
    assert (both.seeds, both.runs[0]) == ((3, 4), first.runs[0])
    assert load(folder.seed_folder(4), task=Pair()) is not None
    shutil.rmtree(folder.path)
    again = retrained(seeds=(3, 4), **options).summary()
    assert (again.test, again.validation) == (both.test, both.validation)
    assert retrained(seeds=(4,), **options).summary() == again  # fewer: nothing to do
    with pytest.raises(StoreError, match=r"holds another retraining \(epochs 1, seeds \[3, 4\]\)"):
        retrained(seeds=(3, 5), **options)


def test_an_interruption_while_seeds_are_added_loses_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = retrained(run).summary()

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("autoprune._retraining.trial.retrain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retrained(run, seeds=(3, 4))
    folder = run.retraining(0)
    assert folder.summary() == first
    assert retrained(run).summary() == first
    with pytest.raises(StoreError, match=r"holds another retraining \(epochs 1, seeds \[3\]\)"):
        retrained(run, seeds=(4,))  # planned, but the finished one would be left out
    for seeds in ((), (3, 3)):
        with pytest.raises(UsageError, match="seeds must be different numbers"):
            retrained(run, seeds=seeds)
    assert retrained(run, seeds=(3, 4)).summary().seeds == (3, 4)


def test_a_card_stands_beside_the_models_and_its_call_loads_them(
    run: RunFolder, tmp_path: Path
) -> None:
    folder = retrained(run, recovery={"lr": 0.02}, seeds=(3, 4))
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    summary = folder.summary()
    test = summary.test["accuracy"]
    assert f"| {100 * test.mean:.2f} ± {100 * (test.std or 0.0):.2f} % |\n" in card
    assert "| `0` | 8 | 6 |\n" in card
    assert "Trial 0 of the search run, retrained for 1 epoch with seeds 3, 4." in card
    assert str(tmp_path) not in card
    shutil.copytree(folder.path, tmp_path / "apart")
    assert "autoprune.load(folder, model=dense)" in card
    for place, first in (("apart", 3), ("apart/seed-4", 4)):
        model = load(tmp_path / place, model=Pair().build_model())
        wanted = next(it for it in summary.runs if it.seed == first).test
        assert Pair().evaluate(model, "test") == wanted


def test_a_rate_is_found_once_and_written(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[RateTrial] = []

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("autoprune._retraining.trial.retrain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retrained(run, epochs=16.0, find_lr=True, on_rate=told.append)
    assert len(told) == 6
    with pytest.raises(StoreError, match=r"holds another .*with a rate that was looked for"):
        retrained(run, epochs=16.0)
    summary = retrained(run, epochs=16.0, find_lr=True, on_rate=told.append).summary()
    assert len(told) == 6  # the interrupted one had found it
    found = summary.found_rate
    assert found is not None
    assert found.tried == tuple(told)
    best = max(told[4:], key=lambda tried: tried.score)
    assert found.lr == summary.candidate.recovery.lr
    assert found.lr == pytest.approx(best.factor * told[2].lr * 4.0)  # SGD: 16 times as long
    assert retrained(run, number=1).summary().found_rate is None


def test_rates_of_an_int8_model_are_judged_in_int8(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[nn.Module] = []
    shares: list[float] = []

    class Spied(RecoveryRun):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            shares.append(options["quantization_aware"])

    def in_int8(task: Any, model: nn.Module) -> nn.Module:
        converted.append(twin_of(model, task, QuantizationSettings(), threads=1).int8)
        return converted[-1]

    monkeypatch.setattr("autoprune._retraining.trial.RecoveryRun", Spied)
    monkeypatch.setattr("autoprune._retraining.trial._in_int8", in_int8)
    record = run.records()[0]
    record = replace(record, candidate=record.candidate.in_precision("int8"))
    told: list[RateTrial] = []
    retrain_trial(
        run,
        run.config,
        Pair(),
        record,
        **{"epochs": 16.0, "seeds": (3,), "quantization_aware": True},
        find_lr=True,
        on_rate=told.append,
    )
    assert shares == [0.2] * 6
    wanted = [Pair().evaluate(model, "val")["accuracy"] for model in converted]
    assert [tried.score for tried in told] == wanted[:6]
    assert len(wanted) == 7  # the last one is the retrained model


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0.0}, "epochs must be above 0 and finite, got 0"),
        ({"epochs": math.nan}, "epochs must be above 0 and finite, got nan"),
        ({"epochs": math.inf}, "epochs must be above 0 and finite, got inf"),
        (
            {"recovery": {"distillation": 2.0}},
            "recovery.distillation must lie in [0, 1], got 2.0",
        ),
        ({"recovery": {"lr": math.inf}}, "recovery.lr must be above 0 and finite, got inf"),
        (
            {"quantization_aware": True},
            "trial 0 is float32, and only int8 models are trained quantization-aware · pick an "
            "int8 one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    run: RunFolder, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        retrained(run, **options)
    assert str(caught.value) == says
    assert not (run.path / "retrained").exists()


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ({"kind": "cubic"}, Schedule("cubic", 0.0, 0.5, 4)),
        ({"steps": 2}, Schedule("cubic", 0.0, 0.5, 2)),
        (
            {"kind": "linear", "begin": 0.25, "end": 0.75, "steps": 3},
            Schedule("linear", 0.25, 0.75, 3),
        ),
        ({"kind": "one_shot"}, Schedule("one_shot", 0.0, 0.0, 1)),
    ],
)
def test_a_model_that_was_pruned_at_once_is_retrained_in_steps(
    run: RunFolder, schedule: dict[str, Any], wanted: Schedule
) -> None:
    summary = retrained(run, schedule=schedule, epochs=4.0).summary()
    before = run.records()[0].candidate
    assert summary.candidate.schedule == wanted
    assert summary.candidate.architecture == before.architecture
    assert len(summary.candidate.stages) == (wanted.steps if wanted.steps > 1 else 0)
    params = [entry["params"] for entry in summary.runs[0].history]
    assert params[-1] == 8 * 6 + 3


class Curved(Pair):
    def removed_share(self, t: float) -> float:
        return t**2


def test_a_schedule_may_follow_the_curve_of_the_task(run: RunFolder) -> None:
    """6 of 8 units stay: at 1/4 and 1 of the way 7.5, taken for 8, and 6."""
    record = run.records()[0]
    asked = {"kind": "task", "end": 0.5, "steps": 2}
    folder = retrain_trial(
        run, run.config, Curved(), record, epochs=4.0, seeds=(3,), schedule=asked
    )
    made = folder.summary().candidate
    assert made.schedule == Schedule("task", 0.0, 0.5, 2, (0.25, 1.0))
    assert [stage.architecture.widths["0"] for stage in made.stages] == [8, 6]
    with pytest.raises(TaskError, match=r"Pair.removed_share\(t\), which is not defined"):
        retrained(run, number=1, schedule=asked)


def test_a_schedule_that_cannot_be_is_one_line(run: RunFolder) -> None:
    with pytest.raises(UsageError, match="schedule must hold 0 <= begin <= end < 1"):
        retrained(run, schedule={"begin": 0.75})
    assert not (run.path / "retrained").exists()


def test_without_a_test_split_nothing_is_written(run: RunFolder) -> None:
    class Untested(Pair):
        def test_loader(self) -> Any:
            raise TaskError("this task has no test split")

    with pytest.raises(TaskError, match="no test split"):
        retrain_trial(run, run.config, Untested(), run.records()[0], epochs=1.0, seeds=(0,))
    assert not (run.path / "retrained").exists()


def test_a_test_split_that_fails_is_named_before_the_training(run: RunFolder) -> None:
    class Broken(Pair):
        def test_loader(self) -> Any:
            raise NotImplementedError("not there")

    with pytest.raises(TaskError) as caught:
        retrain_trial(run, run.config, Broken(), run.records()[0], epochs=1.0, seeds=(0,))
    assert str(caught.value) == "Broken.test_loader failed: NotImplementedError: not there"
    assert not (run.path / "retrained").exists()


def test_an_empty_test_split_is_refused_before_the_training(run: RunFolder) -> None:
    class Empty(Pair):
        def test_loader(self) -> Any:
            return []

    with pytest.raises(TaskError, match=r"Empty\.test_loader must hold at least one batch, got 0"):
        retrain_trial(run, run.config, Empty(), run.records()[0], epochs=1.0, seeds=(0,))
    assert not (run.path / "retrained").exists()


def test_a_folder_with_something_else_is_left_alone(run: RunFolder) -> None:
    folder = run.retraining(0)
    for plan, what in (
        (None, "other files"),
        (RetrainingPlan("another", 2.0, (0, 1)), "epochs 2, seeds [0, 1], another recipe"),
    ):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        if plan:
            folder.save_plan(plan)
        with pytest.raises(StoreError) as caught:
            retrained(run)
        assert str(caught.value) == (
            f"{folder.path} holds another retraining ({what}) · rename or remove that folder first"
        )
        assert not (folder.path / "summary.json").exists()


def test_a_training_that_failed_at_once_does_not_block_the_next_one(run: RunFolder) -> None:
    class Diverged(Pair):
        def loss(self, model: nn.Module, batch: Any) -> Any:
            return super().loss(model, batch) * math.nan

    with pytest.raises(TrainingError, match="must be finite"):
        retrain_trial(run, run.config, Diverged(), run.records()[0], epochs=1.0, seeds=(0,))
    assert [each.name for each in run.retraining(0).path.iterdir()] == ["plan.json"]
    assert retrained(run, recovery={"lr": 0.02}).summary().candidate.recovery.lr == 0.02


def int8_retraining(
    run: RunFolder, before: bool | None, asked: bool | None, precision: str = "int8"
) -> RetrainingFolder:
    """Asks for the retraining of an int8 trial whose finished retraining is there."""
    record = run.records()[0]
    architecture = replace(record.candidate.architecture, precision=precision)
    record = replace(record, candidate=replace(record.candidate, architecture=architecture))
    found = for_length(record.candidate, run.config, 1.0, Pair())
    folder = run.retraining(0)
    folder.save_plan(RetrainingPlan(found.key, 1.0, (3,), quantization_aware=before))
    folder.save_summary(RetrainingSummary(0, found, 1.0, (3,), {}))
    return retrain_trial(
        run, run.config, Pair(), record, epochs=1.0, seeds=(3,), quantization_aware=asked
    )


@pytest.mark.parametrize(
    ("before", "asked"),
    [(True, True), (False, False), (True, None), (False, None), (None, None)],
)
def test_a_retraining_with_the_same_simulation_of_int8_is_there(
    run: RunFolder, before: bool | None, asked: bool | None
) -> None:
    assert int8_retraining(run, before, asked).is_finished


@pytest.mark.parametrize(
    ("before", "asked", "says"),
    [
        (True, False, "quantization-aware"),
        (False, True, "not quantization-aware"),
        (None, True, "not recorded whether quantization-aware"),
    ],
)
def test_another_simulation_of_int8_is_another_retraining(
    run: RunFolder, before: bool | None, asked: bool, says: str
) -> None:
    with pytest.raises(StoreError, match=rf"\(epochs 1, seeds \[3\], {says}\)"):
        int8_retraining(run, before, asked)


def test_a_float_retraining_without_the_field_is_there_and_none_simulates_int8(
    run: RunFolder,
) -> None:
    assert int8_retraining(run, None, False, precision="float32").is_finished
    with pytest.raises(UsageError, match="trial 0 is float32"):
        int8_retraining(run, None, True, precision="float32")
