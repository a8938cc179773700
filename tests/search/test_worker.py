"""What a worker holds, and one trial's way through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stripes import Stripes, dense
from torch import nn

from autoprune._search.trials.trainable import Spec
from autoprune._search.trials.worker import RecoveryTrial, WorkerContext
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import TaskError
from autoprune.schedule import Schedule
from autoprune.store import RunFolder, pack, read_model
from autoprune.training.distillation import Teacher
from autoprune.training.precision import Call

HALF = Candidate(Architecture({"0": 8, "3": 8}), recovery=Recovery(lr=0.05, distillation=0.0))


@pytest.fixture
def path(folder: RunFolder) -> str:
    return str(folder.path)


def context(path: str, **more: Any) -> WorkerContext:
    model, graph = dense()
    values: dict[str, Any] = {
        "task": Stripes(),
        "weights": model.state_dict(),
        "graph": graph,
        "calibration": None,
        "milestones": (0.5, 1.0),
        "path": path,
        "task_reference": "stripes.py:Stripes",
        "task_args": {"data": "here"},
        "threads": torch.get_num_threads(),
    }
    made = WorkerContext(**{**values, **more})
    made.prepare()
    return made


def played(trial: RecoveryTrial) -> RecoveryTrial:
    while not trial.finished:
        trial.advance()
    return trial


def test_the_dense_model_is_built_from_its_weights(path: str) -> None:
    made = context(path)
    assert made.dense is not None
    assert not made.dense.training
    for name, value in made.dense.state_dict().items():
        assert torch.equal(value, made.weights[name])


def test_weights_of_another_model_are_refused(path: str) -> None:
    weights = dict(dense()[0].state_dict())
    name = next(iter(weights))
    shape = tuple(weights[name].shape)
    for other, got in (({**weights, name: torch.zeros(9)}, "(9,)"), ({}, "none")):
        with pytest.raises(TaskError) as caught:
            context(path, weights=other)
        assert str(caught.value) == (
            "Stripes.build_model must give the same structure at every call, got "
            f"{name} of shape {shape}, before {got}"
        )


def test_a_model_that_cannot_be_built_is_named(path: str) -> None:
    class Unbuilt(Stripes):
        def build_model(self) -> nn.Module:
            raise KeyError("blocks")

    with pytest.raises(TaskError, match=r"^Unbuilt.build_model failed: KeyError: 'blocks'$"):
        context(path, task=Unbuilt())


def test_a_trial_needs_a_context_that_is_prepared(path: str) -> None:
    with pytest.raises(AssertionError, match="prepare comes before start"):
        replace(context(path)).start(Spec(0, HALF, 1))


def test_a_trial_goes_from_milestone_to_milestone(path: str) -> None:
    trial = context(path).start(Spec(4, HALF, 7))
    before = trial.report()
    assert (before.epochs, before.finished, before.artifact, before.history) == (
        0.0,
        False,
        None,
        (),
    )
    trial.advance()
    half = trial.report()
    assert (half.epochs, half.finished, half.artifact) == (0.5, False, None)
    trial.advance()
    done = trial.report()
    assert (done.epochs, done.finished) == (1.0, True)
    assert [entry["epoch"] for entry in done.history] == [0.5, 1.0]
    assert done.metrics["accuracy"] == done.history[-1]["accuracy"]
    assert "file_bytes" not in done.history[-1]
    assert done.conversion is None
    assert not trial.report("broke").finished
    assert trial.report("broke").error == "broke"


def test_a_trial_that_is_pruned_later_is_evaluated_later(path: str) -> None:
    """Removals until a quarter of 2 epochs: the rung of half an epoch is at 1."""
    late = Candidate.planned(
        HALF.architecture,
        {"0": 16, "3": 16},
        schedule=Schedule("linear", 0.0, 0.25, 2),
        recovery=HALF.recovery,
    )
    made = context(path, milestones=(0.5, 2.0))
    assert [entry["epoch"] for entry in played(made.start(Spec(0, late, 7))).report().history] == [
        *(1.0, 2.0)
    ]
    assert [e["epoch"] for e in played(made.start(Spec(1, HALF, 7))).report().history] == [0.5, 2.0]


def test_the_saved_model_is_the_trained_one_with_its_recipe(path: str) -> None:
    trial = played(context(path, milestones=(0.5,), sized=True).start(Spec(4, HALF, 7)))
    report = trial.report()
    assert report.artifact is not None
    recipe, state = read_model(Path(path) / report.artifact)
    assert recipe.candidate == HALF
    assert (recipe.task, recipe.task_args) == ("stripes.py:Stripes", {"data": "here"})
    assert {name: len(units) for name, units in recipe.kept_indices.items()} == {"0": 8, "3": 8}
    assert tuple(state["3.weight"].shape) == (8, 8, 3, 3)
    assert report.history[-1]["file_bytes"] == len(pack(recipe, state))


def test_a_restored_trial_ends_as_the_uninterrupted_one(path: str, tmp_path: Path) -> None:
    made = context(path)
    whole = played(made.start(Spec(1, HALF, 7)))
    first = made.start(Spec(2, HALF, 7))
    first.advance()
    (tmp_path / "state").mkdir()
    first.save(str(tmp_path / "state"))
    second = made.start(Spec(2, HALF, 7))
    second.restore(str(tmp_path / "state"))
    assert second.report().epochs == 0.5
    ended = played(second).report()
    assert ended.metrics == whole.report().metrics
    assert ended.history == whole.report().history


def test_a_baseline_from_scratch_begins_with_random_weights_and_is_not_converted(
    path: str,
) -> None:
    made = context(path, milestones=(0.5,), precisions=("float32", "int8"))
    trial = played(made.start(Spec(3, HALF, 7, scratch=True)))
    report = trial.report()
    assert report.finished
    assert report.conversion is None
    pruned = played(context(path, milestones=(0.5,)).start(Spec(4, HALF, 7))).report()
    assert report.metrics != pruned.metrics


def test_a_baseline_from_scratch_has_the_dense_model_as_its_teacher(path: str) -> None:
    taught = replace(HALF, recovery=Recovery(lr=0.05, distillation=1.0))
    trial = played(context(path, milestones=(3.0,)).start(Spec(3, taught, 7, scratch=True)))
    assert trial.report().metrics["accuracy"] > 0.8  # of the answers of random weights: chance


def test_the_teacher_is_asked_once_for_all_trials_of_a_worker(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    computed = Teacher._computed

    def count(teacher: Teacher, call: Call) -> Any:
        asked.append(len(call.args[0]))
        return computed(teacher, call)

    monkeypatch.setattr(Teacher, "_computed", count)
    made, found = context(path), []
    for number, width in enumerate((8, 4)):
        taught = replace(
            HALF,
            architecture=Architecture({"0": width, "3": width}),
            recovery=Recovery(lr=0.05, distillation=1.0),
        )
        played(made.start(Spec(number, taught, 0)))
        found.append(len(asked))
    assert found[0] == found[1] > 0
