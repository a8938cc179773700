"""The steps of a LightningModule without a Trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_lightning import Classifier, Data, Right, X, Y, classifier
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import TaskError
from autoprune.tasks.lightning_steps import Log, Validation, own, training_loss

VAL = list(Data().val_dataloader())  # 16 and 4 samples


def test_means_are_weighted_by_the_size_of_the_batch() -> None:
    log = Log()
    for size, value in ((16, 1.0), (4, 0.5)):
        log.size = size
        log.log("mean", torch.tensor(value, requires_grad=True))
        log.log("given", value, batch_size=1)
        log.log("sum", value, reduce_fx="sum")
        log.log("min", value, reduce_fx=torch.min)
        log.log_dict({"max": value}, reduce_fx="max")
    # (16 x 1 + 4 x 0.5) / 20 = 0.9
    assert log.reduced() == {"mean": 0.9, "given": 0.75, "sum": 1.5, "min": 0.5, "max": 1.0}


def test_metric_objects_are_computed_at_the_end_and_begin_again() -> None:
    log, right = Log(), Right()
    for logits, target in (([[0.0, 1.0]], [1]), ([[1.0, 0.0]], [1])):
        right.update(torch.tensor(logits), torch.tensor(target))
        log.log("right", right)
    assert log.reduced() == {"right": 0.5}
    log.reset()
    assert right.total == 0


def test_an_unknown_reduction_is_refused() -> None:
    log = Log()
    log.log("x", 1.0, reduce_fx="median")
    with pytest.raises(TaskError, match=r"reduce_fx must be one of mean, .* got median"):
        log.reduced()


def test_the_training_step_gives_the_loss_and_its_logs_are_dropped() -> None:
    module = classifier()
    answer = training_loss(module, (X, Y))
    assert torch.equal(answer["loss"], F.cross_entropy(module(X), Y))
    assert not {"log", "log_dict"} & set(vars(module))


def test_a_metric_of_the_training_does_not_grow() -> None:
    class Counting(Classifier):
        def training_step(self, batch: Any) -> Tensor:  # without the index
            self.right.update(self(batch[0]), batch[1])
            self.log("train_acc", self.right)
            return self(batch[0]).sum()

    module = Counting()
    training_loss(module, (X, Y))
    assert module.right.total == 0


def test_what_validation_logs_are_the_metrics() -> None:
    module = classifier().eval()
    found = Validation()(module, VAL)
    right = (module(X[:20]).argmax(1) == Y[:20]).sum().item()
    loss = F.cross_entropy(module(X[:20]), Y[:20]).item()
    assert found == {
        "val_acc": pytest.approx(right / 20),
        "val_loss": pytest.approx(loss),
        "last": pytest.approx(4 / 20),  # batch 1 has 4 of 20
        "most": 16.0,
        "images": 20.0,
    }
    assert Validation()(module, VAL) == found


def test_metrics_can_be_updated_after_an_evaluation() -> None:
    module = classifier().eval()
    with torch.inference_mode():
        Validation()(module, VAL)
    module.right.update(module(X), Y)
    assert module.right.total == 40


class Always(nn.Module):
    """As an int8 file: an answer and no steps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


def test_a_model_without_steps_is_judged_by_those_of_the_module() -> None:
    steps = Validation()
    steps.build = classifier
    assert steps(Always(), VAL)["val_acc"] == pytest.approx((Y[:20] == 0).float().mean().item())


def test_a_step_that_goes_past_forward_cannot_judge_it() -> None:
    class Past(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.head(self.body(batch[0])).sum())

    steps = Validation()
    steps.build = Past
    with pytest.raises(TaskError, match=r"Past.validation_step must call self\(...\)"):
        steps(Always(), VAL)


def test_methods_of_base_classes_do_not_count() -> None:
    class Base(nn.Module):
        def validation_step(self) -> None:
            """As LightningModule has it."""

    Base.validation_step.__module__ = "lightning.pytorch.core.module"
    assert own(Base(), "validation_step") is None
    assert own(nn.Module(), "forward") is None
    assert own(classifier(), "missing") is None
    assert own(classifier(), "forward") is not None
