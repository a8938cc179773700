"""`wrap` of a detector whose loss takes the whole batch, and whose metric a function computes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autoprune
from autoprune.errors import TaskError
from autoprune.tasks.on_batches import loss_of
from autoprune.tasks.wrap import wrap

SIZE = 8


class Detector(nn.Module):
    """Maps in training, decoded places and their scores in evaluation; a batch gives its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor | dict[str, Any]) -> Any:
        if isinstance(x, dict):
            return self.loss(x)
        maps = self.head(self.neck(self.stem(x)))
        return [maps] if self.training else (maps.flatten(1).sigmoid(), [maps])

    def loss(self, batch: dict[str, Any], preds: list[Tensor] | None = None) -> Any:
        found = self.forward(batch["img"]) if preds is None else preds
        (maps,) = found[1] if isinstance(found, tuple) else found  # in evaluation after the rest
        wanted = torch.zeros_like(maps)
        for image, (row, column) in zip(batch["batch_idx"], batch["places"], strict=True):
            wanted[image, 0, row, column] = 1.0
        parts = F.binary_cross_entropy_with_logits(maps, wanted, reduction="none").mean((1, 2))
        return parts.sum(1), parts.detach()  # one for each image, and what is shown


def batch(seed: int, size: int = 8) -> dict[str, Any]:
    """Images with one bright pixel each, and where it is."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.randint(0, SIZE, (size, 2), generator=draw)
    images = 0.1 * torch.rand(size, 1, SIZE, SIZE, generator=draw)
    images[torch.arange(size), 0, places[:, 0], places[:, 1]] = 1.0
    names = [f"{seed}-{n}.png" for n in range(size)]
    return {"im_file": names, "img": images, "batch_idx": torch.arange(size), "places": places}


def pixels(found: dict[str, Any]) -> Tensor:
    return found["img"]


def loss(model: Any, found: dict[str, Any]) -> Tensor:
    return model.loss(found, model(found["img"]))[0].mean()


def hits(model: nn.Module, loader: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The share of images whose best place is right."""
    right = total = 0
    for found in loader:
        best = model(found["img"])[0].argmax(1)
        places = found["places"]
        right += int((best == places[:, 0] * SIZE + places[:, 1]).sum())
        total += len(places)
    return {"mAP": right / total, "images": total}


TRAIN, VAL = [batch(n) for n in range(4)], [batch(n) for n in (10, 11)]


def task_of(model: nn.Module, **more: Any) -> autoprune.Task:
    given = {"inputs": pixels, "batch_loss": loss, "evaluate": hits, "metric": "mAP"} | more
    return wrap(model, TRAIN, VAL, **given)


def test_the_loss_takes_the_model_and_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = Detector().train()
    task = task_of(model)
    assert torch.equal(task.loss(model, TRAIN[0]), model.loss(TRAIN[0])[0].mean())
    assert torch.equal(task.outputs(model, TRAIN[0])[0], model(TRAIN[0]["img"])[0])
    assert torch.equal(task.example_input(), VAL[0]["img"][:1])
    assert pickle.loads(pickle.dumps(task)).loss(model, TRAIN[0]).requires_grad


def test_the_model_may_give_the_losses_of_a_batch_as_a_mapping() -> None:
    class Summed(Detector):
        def loss(self, batch: dict[str, Any], preds: list[Tensor] | None = None) -> Any:
            value = super().loss(batch, preds)[0].mean()
            return {"box": value, "cls": 2.0 * value}

    torch.manual_seed(0)
    model = Summed().train()
    task = task_of(model, batch_loss=lambda model, found: model(found))
    parts = model(TRAIN[0])
    assert task.loss(model, TRAIN[0]).item() == pytest.approx(3.0 * parts["box"].item())


def test_what_is_no_loss_is_named() -> None:
    model = Detector().train()
    task = task_of(model, batch_loss=lambda model, found: model(found))
    with pytest.raises(TaskError, match=r"Detector: batch_loss must give a scalar .* got tuple"):
        loss_of(task, model, TRAIN[0])


def test_inputs_that_do_not_fit_the_batches_are_named() -> None:
    with pytest.raises(TaskError, match="Detector: inputs failed on a batch: KeyError: 'image'"):
        task_of(Detector(), inputs=lambda found: found["image"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": loss}, r"loss\(outputs, targets\) or batch_loss\(model, batch\), got both"),
        ({"batch_loss": None}, "inputs needs batch_loss=function"),
        ({"evaluate": None, "metric": "accuracy"}, "inputs needs batch_loss=function"),
    ],
)
def test_arguments_that_exclude_each_other_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        task_of(Detector(), **change)


def test_a_detector_is_searched_in_other_processes(tmp_path: Any) -> None:
    torch.manual_seed(0)
    result = autoprune.search(
        task_of(Detector()),
        budget={"macs": "60%"},
        space={
            "ratios": {"max": 0.75},
            "schedule": {"kind": "one_shot"},
            "recovery": {"distillation": 0.0},
        },
        trials=1,
        epochs=0.5,
        rungs=0,
        concurrent=1,
        screen=0,
        baselines={"uniform": 0, "random": 0},
        calibration_samples=16,
        output=tmp_path / "run",
    )
    (record,) = [record for record in result.records if record.is_counted]
    assert record.state == "complete"
    assert {"mAP", "images"} <= record.metrics.keys()
    small = result.model(record)
    assert isinstance(small, Detector)
    assert small.loss(VAL[0])[0].shape == (8,)
    assert small.stem[0].out_channels < 12 or small.neck[0].out_channels < 12
