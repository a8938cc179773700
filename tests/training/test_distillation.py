from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from stripes import Stripes, dense
from torch import Tensor, nn

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.errors import TaskError, TrainingError
from autoprune.graph import trace
from autoprune.training import Precision, RecoveryRun
from autoprune.training.distillation import Teacher
from autoprune.training.precision import watched

CPU = torch.device("cpu")


class Plain(Stripes):
    """Without normalisation and dropout a model answers the same in train and eval mode."""

    def build_model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def recovery(task: Stripes, model: nn.Module, weight: float, ratio: float) -> RecoveryRun:
    graph = trace(model, task.example_input())
    chosen = Candidate(
        Architecture({"0": round(8 * (1.0 - ratio))}),
        Selection(repair=False),
        recovery=Recovery(lr=0.05, distillation=weight),
    )
    return RecoveryRun(task, model, graph, chosen, epochs=1, seed=0)


def test_an_identical_student_has_no_distillation_loss() -> None:
    task = Plain()
    run = recovery(task, task.build_model(), 1.0, 0.0)
    assert run.advance(1 / 6)["train_loss"] == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_both_terms() -> None:
    task = Plain()
    losses = [
        recovery(task, task.build_model(), weight, 0.5).advance(1 / 6)["train_loss"]
        for weight in (0.0, 0.25, 1.0)
    ]
    assert losses[2] > 0.01
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * losses[2], rel=1e-5)


def test_the_teacher_sees_the_students_batch_and_answers_as_the_dense_model_in_eval_mode() -> None:
    task = Stripes()
    model, _ = dense()
    model.train()
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(Stripes):
        def distillation_loss(self, student_out: Tensor, teacher_out: Tensor) -> Tensor:
            seen.append((student_out, teacher_out))
            return student_out.sum()

    teacher = Teacher(Spy(), model, Precision(), CPU)
    batch = next(iter(task.train_loader(0)))
    student = task.build_model()
    with watched(student, Precision(), CPU) as calls:
        task.loss(student, batch)
    teacher.distance(calls, teacher.answers(calls))
    model.eval()
    assert torch.equal(seen[0][1], model(batch[0]))
    assert seen[0][0].requires_grad
    assert not seen[0][1].requires_grad


def test_training_with_the_teacher_alone_brings_the_student_closer_to_it() -> None:
    task = Stripes()
    model, graph = dense()
    chosen = Candidate(
        Architecture({"0": 8, "3": 8}),
        Selection(repair=False),
        recovery=Recovery(lr=0.02, distillation=1.0),
    )
    run = RecoveryRun(task, model, graph, chosen, epochs=5, seed=0)
    x = torch.cat([batch[0] for batch in task.val_loader()])
    distances = []
    for epochs in (0, 5):
        if epochs:
            run.advance(epochs)
        run.build()
        run.model.eval()
        distances.append((run.model(x) - model(x)).square().mean().item())
    assert distances[1] < 0.5 * distances[0]


class Inside(Stripes):
    """A loss that goes round the model's own forward."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x = batch[0]
        for layer in model:
            x = layer(x)
        return nn.functional.cross_entropy(x, batch[1])


def test_a_loss_that_never_calls_the_model_is_refused_with_the_remedy() -> None:
    model, graph = dense()
    run = RecoveryRun(
        Inside(),
        model,
        graph,
        Candidate(Architecture(), recovery=Recovery(distillation=0.5)),
        epochs=1,
        seed=0,
    )
    with pytest.raises(TrainingError, match=r"set recovery\.distillation to 0"):
        run.advance(1)


class Aux(nn.Module):
    """A head more in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
        self.main, self.aux = nn.Linear(288, 3), nn.Linear(288, 3)

    def forward(self, x: Tensor) -> object:
        x = self.body(x)
        return (self.main(x), self.aux(x)) if self.training else self.main(x)


class WithAux(Stripes):
    def build_model(self) -> nn.Module:
        return Aux()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        found = model(batch[0])
        parts = found if isinstance(found, tuple) else (found,)
        return torch.stack([nn.functional.cross_entropy(p, batch[1]) for p in parts]).sum()


def test_a_head_that_is_there_in_training_only_has_no_target() -> None:
    task = WithAux()
    model = task.build_model().eval()
    chosen = Candidate(Architecture({"body.0": 4}), recovery=Recovery(lr=0.05, distillation=0.5))
    graph = trace(model, task.example_input())
    run = RecoveryRun(task, model, graph, chosen, epochs=1, seed=0)
    assert run.advance(1)["train_loss"] > 0.0
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    plain = task.distillation_loss(x, y)
    assert torch.equal(task.distillation_loss((x, y), y), plain)
    assert torch.equal(task.distillation_loss({"a": x, "b": y}, {"a": y}), plain)
    assert torch.equal(task.distillation_loss(SimpleNamespace(a=x), SimpleNamespace(a=y)), plain)
    with pytest.raises(TaskError, match="nothing in common · override distillation_loss"):
        task.distillation_loss({"a": x}, {"b": y})
