"""What an actor makes of trials, without Ray's processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune._search.state.messages import REPORT, Report
from autoprune._search.trials.trainable import SPEC, PruneTrial, Spec
from autoprune._search.trials.worker import WorkerContext
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.store import RunFolder
from autoprune.tasks import Task

HALF = Candidate(Architecture({"0": 8, "3": 8}), recovery=Recovery(lr=0.05, distillation=0.0))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(RunFolder.create(tmp_path / "run", {}, {}).path)


def reports(
    folder: str,
    task: Task | None = None,
    candidate: Candidate = HALF,
    milestones: tuple[float, ...] = (1.0,),
) -> list[Report]:
    """All reports of one trial, to its end."""
    model, graph = dense()
    context = WorkerContext(
        task=task or Stripes(),
        weights=model.state_dict(),
        graph=graph,
        calibration=None,
        milestones=milestones,
        path=folder,
        task_reference="stripes",
        threads=torch.get_num_threads(),
    )
    actor = PruneTrial.__new__(PruneTrial)  # without Ray's own preparations
    actor.setup({SPEC: Spec(4, candidate, 7)}, context)
    found = []
    while True:
        result = actor.step()
        found.append(result[REPORT])
        if result["done"]:
            return found


def test_a_trial_reports_what_its_model_does_and_saves_it(folder):
    (done,) = reports(folder)
    assert (done.finished, done.error, done.epochs) == (True, None, 1.0)
    assert done.metrics.keys() == {"accuracy", "loss"}
    assert done.history[-1]["accuracy"] == done.metrics["accuracy"]
    assert done.times.keys() == {"build_s", "train_s", "evaluate_s"}
    assert all(seconds > 0 for seconds in done.times.values())
    assert done.artifact is not None
    assert (Path(folder) / done.artifact).is_dir()


def test_milestones_change_no_number(folder):
    (plain,) = reports(folder, milestones=(2.0,))
    parts = reports(folder, milestones=(0.5, 1.0, 2.0))
    assert [part.epochs for part in parts] == [0.5, 1.0, 2.0]
    assert [part.finished for part in parts] == [False, False, True]
    assert parts[-1].metrics == plain.metrics


class Fails(Stripes):
    error: BaseException = ValueError("the labels are off\nsecond line")

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


def why(report: Report) -> list[str]:
    assert not report.finished
    assert report.artifact is None
    assert report.error is not None
    return report.error.splitlines()


def test_an_exception_of_the_task_is_told_with_its_traceback(folder):
    (failed,) = reports(folder, Fails())
    lines = why(failed)
    assert lines[0] == (
        "TaskError: Fails.loss failed on a batch of train_loader (16x1x8x8 float32, 16 int64): "
        "ValueError: the labels are off second line"
    )
    assert lines[1].startswith("Traceback")
    assert any("in loss" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (NeverFinite(), "TrainingError: training loss must be finite, got inf at step 0"),
        (BadMetric(), "TrainingError: BadMetric.evaluate must give a finite 'accuracy'"),
    ],
)
def test_numbers_that_are_not_finite_fail_the_trial(folder, task, said):
    (failed,) = reports(folder, task)
    assert why(failed)[0].startswith(said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_no_memory_is_called_so(folder, error):
    task = Fails()
    task.error = error
    (failed,) = reports(folder, task)
    assert why(failed)[0].startswith("out of memory")


def test_an_endless_text_is_cut(folder):
    task = Fails()
    task.error = ValueError("x" * 20_000_000)
    (failed,) = reports(folder, task)
    assert len(why(failed)[0]) < 600
    assert len(failed.error) < 21_000
    assert "in loss" in failed.error


def test_a_group_that_does_not_exist_fails_the_trial(folder):
    (failed,) = reports(folder, candidate=Candidate(Architecture({"nowhere": 5})))
    assert "nowhere" in why(failed)[0]


def test_ctrl_c_is_not_a_failed_trial(folder):
    task = Fails()
    task.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        reports(folder, task)


def test_what_was_evaluated_before_the_failure_is_still_reported(folder):
    class Later(Stripes):
        count = 0

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            self.count += model.training
            if self.count > 9:
                raise RuntimeError("the disk is gone")
            return super().loss(model, batch)

    *_, failed = reports(folder, Later(), milestones=(1.0, 2.0))
    first = why(failed)[0]
    assert first.startswith("TaskError: Later.loss failed on a batch of train_loader (")
    assert first.endswith(": RuntimeError: the disk is gone")
    assert [entry["epoch"] for entry in failed.history] == [1.0]
    assert failed.epochs == 1.5
