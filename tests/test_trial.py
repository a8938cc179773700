from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.candidate import Candidate, Recovery
from autoprune.record import TrialRecord
from autoprune.trial import Trial, run_trial

HALF = Candidate({"0": 0.5, "3": 0.5}, recovery=Recovery(lr=0.05, distillation=0.0))


def trial(task: Stripes | None = None, candidate: Candidate = HALF, **options: object) -> Trial:
    model, graph = dense()
    return run_trial(
        task or Stripes(), model, graph, candidate, **{"epochs": 1, "seed": 7, **options}
    )


def test_a_trial_gives_a_record_and_the_smaller_model() -> None:
    done = trial(number=4, origin="seed:uniform")
    record = done.record
    assert (record.number, record.state, record.seed, record.epochs) == (4, "complete", 7, 1.0)
    assert record.origin == "seed:uniform"
    assert record.metrics.keys() == {"accuracy", "val_loss"}
    assert record.history[-1]["accuracy"] == record.metrics["accuracy"]
    assert record.times.keys() == {"build_s", "train_s", "evaluate_s", "wall_s"}
    parts = sum(record.times[key] for key in ("build_s", "train_s", "evaluate_s"))
    assert 0 < parts <= record.times["wall_s"]
    assert done.model is not None
    assert not done.model.training
    assert done.model[0].out_channels == len(done.keep["0"]) == 8
    assert TrialRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_the_record_says_what_the_model_does() -> None:
    done = trial()
    assert done.model is not None
    assert Stripes().evaluate(done.model, "val")["accuracy"] == done.record.metrics["accuracy"]


def test_rungs_are_asked_and_may_stop_the_trial() -> None:
    asked: list[float] = []

    def stop_at_the_second(entry: Mapping[str, float]) -> bool:
        asked.append(entry["epoch"])
        return len(asked) < 2

    stopped = trial(epochs=3, rungs=(0.5, 1.0, 2.0), on_evaluation=stop_at_the_second)
    assert asked == [0.5, 1.0]
    assert (stopped.record.state, stopped.record.epochs) == ("stopped", 1.0)
    assert stopped.record.metrics


def test_rungs_change_no_number() -> None:
    plain, rungs = trial(epochs=2), trial(epochs=2, rungs=(0.5, 1.0))
    assert [entry["epoch"] for entry in rungs.record.history] == [0.5, 1.0, 2.0]
    assert plain.record.metrics == rungs.record.metrics


class Fails(Stripes):
    error: Exception = ValueError("the labels are off\nsecond line")

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if model.training:
            raise self.error
        return super().loss(model, batch)


class NeverFinite(Stripes):
    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(model, batch) * float("inf")


class BadMetric(Stripes):
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return {"accuracy": float("nan")}


def test_an_exception_of_the_task_is_recorded_with_its_traceback() -> None:
    failed = trial(Fails())
    assert (failed.record.state, failed.model, failed.keep) == ("failed", None, {})
    assert failed.record.error is not None
    lines = failed.record.error.splitlines()
    assert lines[0] == "ValueError: the labels are off"
    assert lines[1].startswith("Traceback")
    assert any("in loss" in line for line in lines)
    assert failed.record.seed == 7


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (NeverFinite(), "TrainingError: training loss must be finite, got inf at step 0"),
        (BadMetric(), "TrainingError: BadMetric.evaluate must give a finite 'accuracy'"),
    ],
)
def test_numbers_that_are_not_finite_fail_the_trial(task: Stripes, said: str) -> None:
    failed = trial(task)
    assert failed.record.state == "failed"
    assert failed.record.error is not None
    assert failed.record.error.startswith(said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_no_memory_is_called_so(error: Exception) -> None:
    task = Fails()
    task.error = error
    failed = trial(task)
    assert failed.record.error is not None
    assert failed.record.error.splitlines()[0].startswith("out of memory")


def test_a_group_that_does_not_exist_fails_the_trial() -> None:
    failed = trial(candidate=Candidate({"nowhere": 0.5}))
    assert failed.record.state == "failed"
    assert failed.record.error is not None
    assert "nowhere" in failed.record.error.splitlines()[0]


def test_ctrl_c_is_not_a_failed_trial() -> None:
    task = Fails()
    task.error = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        trial(task)


def test_what_was_measured_before_the_failure_stays_in_the_record() -> None:
    class Later(Stripes):
        count = 0

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            self.count += model.training
            if self.count > 9:
                raise RuntimeError("the disk is gone")
            return super().loss(model, batch)

    failed = trial(Later(), epochs=2, rungs=(1.0,))
    assert failed.record.error is not None
    assert failed.record.error.startswith("RuntimeError: the disk is gone")
    assert [entry["epoch"] for entry in failed.record.history] == [1.0]
    assert failed.record.epochs == 1.5
