"""`wrap_lightning`: a module with the methods of a LightningModule as a task."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from plain_lightning import Classifier, Data, X, Y, classifier
from torch import Tensor, nn
from torch.nn import functional as F

import autoprune
from autoprune import QuantizationSettings, TaskError
from autoprune.quantization import twin_of


def test_steps_and_loaders_of_a_data_module_make_the_task() -> None:
    data, module = Data(), classifier()
    task = autoprune.wrap_lightning(module, data, metric="val_acc")
    assert data.calls == ["prepare", "fit", "test"]
    model = task.build_model().train()
    loss = task.loss(model, (X, Y))
    assert loss.item() == pytest.approx(F.cross_entropy(module(X), Y).item())
    assert loss.requires_grad
    right = (module(X).argmax(1) == Y).float()
    assert task.evaluate(model, "val")["val_acc"] == pytest.approx(right[:20].mean().item())
    assert task.evaluate(model, "test")["val_acc"] == pytest.approx(right[20:].mean().item())
    assert model.training
    assert torch.equal(task.example_input(), X[:1])


def test_loaders_may_be_given_or_be_the_modules_own() -> None:
    class Whole(Classifier, Data):  # type: ignore[misc]  # both have an __init__
        def __init__(self) -> None:
            Classifier.__init__(self)
            Data.__init__(self)

    module = Whole()
    own = autoprune.wrap_lightning(module, metric="val_loss", direction="minimize")
    assert (own.metric, own.direction, module.calls) == ("val_loss", "minimize", [])
    pair = ([(X, Y)], [(X[:4], Y[:4])])
    given = autoprune.wrap_lightning(module, pair, metric="val_loss")
    assert given.evaluate(module, "val")["images"] == 4.0
    with pytest.raises(TaskError, match="no test split"):
        given.test_loader()
    third = autoprune.wrap_lightning(module, (*pair, [(X[:2], Y[:2])]), metric="val_loss")
    assert third.evaluate(module, "test")["images"] == 2.0


def test_the_example_of_the_module_and_of_other_batches() -> None:
    module = classifier()
    module.example_input_array = X[5:9]
    task = autoprune.wrap_lightning(module, Data(), metric="val_acc")
    assert torch.equal(task.example_input(), X[5:6])
    named = [{"image": X, "target": Y}]
    own = autoprune.wrap_lightning(
        classifier(),
        (named, named),
        inputs=lambda batch: batch["image"],
        evaluate=lambda model, loader: {"rows": sum(len(model(b["image"])) for b in loader)},
        metric="rows",
    )
    assert torch.equal(own.example_input(), X[:1])
    assert own.evaluate(own.build_model(), "val") == {"rows": 40.0}


def test_it_travels_and_judges_int8() -> None:
    task = pickle.loads(pickle.dumps(autoprune.wrap_lightning(classifier(), Data(), metric="v")))
    task.metric = "val_acc"
    model = task.build_model()
    twin = twin_of(model, task, QuantizationSettings("minmax", samples=16), threads=1)
    expected = task.evaluate(model, "val")
    assert task.evaluate(twin.float32, "val") == pytest.approx(expected, abs=1e-5)
    assert task.evaluate(twin.int8, "val")["val_loss"] == pytest.approx(
        expected["val_loss"], abs=0.05
    )


class Manual(Classifier):
    automatic_optimization = False


class Unable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Several(Data):
    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]


class Broken(Data):
    def setup(self, stage: str) -> None:
        raise FileNotFoundError("no images")


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (3, Data(), "module must be an nn.Module, got int"),
        (Unable(), Data(), "Unable must define training_step, validation_step"),
        (nn.Module(), Data(), "Module must define forward, training_step"),
        (Manual(), Data(), "Manual optimizes by itself"),
        (Classifier(), None, "got none, and the module has no loaders"),
        (Classifier(), 3, r"or \(train_loader, val_loader\), got int"),
        (Classifier(), ([(X, Y)],), "got 1 of them"),
        (Classifier(), Several(), "val_dataloader gives 2 loaders"),
        (Classifier(), Broken(), "Broken.setup failed for 'fit': FileNotFoundError: no images"),
    ],
)
def test_what_does_not_fit_is_refused(module: Any, data: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        autoprune.wrap_lightning(module, data, metric="val_acc")


def test_a_metric_that_is_not_logged_and_a_step_without_a_loss_are_named() -> None:
    class Silent(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

    task = autoprune.wrap_lightning(Silent(), Data(), metric="f1")
    with pytest.raises(TaskError, match="the metric 'f1', got val_acc, val_loss"):
        task.evaluate(task.build_model(), "val")
    with pytest.raises(TaskError, match=r"must give a scalar tensor .* got NoneType"):
        task.loss(task.build_model(), (X, Y))


def test_a_module_without_validation_needs_evaluate() -> None:
    class Training(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

        def training_step(self, batch: Any) -> Tensor:
            return self(batch[0]).sum()

    with pytest.raises(TaskError, match=r"must define validation_step · or give evaluate="):
        autoprune.wrap_lightning(Training(6, 2), Data(), metric="val_acc")
    task = autoprune.wrap_lightning(
        Training(6, 2), Data(), metric="x", evaluate=lambda model, loader: 0.5
    )
    assert task.evaluate(task.build_model(), "val") == {"x": 0.5}


def test_it_is_searched_in_other_processes(tmp_path: Any) -> None:
    result = autoprune.search(
        autoprune.wrap_lightning(classifier(), Data(), metric="val_acc"),
        budget={"params": "80%"},
        space={"ratios": {"max": 0.5}, "schedule": {"kind": "one_shot"}},
        trials=1,
        epochs=1.0,
        rungs=0,
        concurrent=1,
        screen=0,
        baselines={"uniform": 0, "random": 0},
        calibration_samples=16,
        output=tmp_path / "run",
    )
    (record,) = [record for record in result.records if record.is_counted]
    assert (record.state, record.metrics["images"]) == ("complete", 20.0)
    small = result.model(record)
    assert isinstance(small, Classifier)
    assert training_shapes(small) < training_shapes(classifier())


def training_shapes(module: nn.Module) -> int:
    """Parameters with gradients after a training step."""
    autoprune.wrap_lightning(module, Data(), metric="val_acc").loss(module, (X, Y)).backward()
    return sum(p.grad.numel() for p in module.parameters() if p.grad is not None)
