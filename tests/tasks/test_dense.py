"""The default recipe, step by step."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError, TrainingError
from autoprune.tasks.dense import train_from_scratch

X = torch.tensor([[1.0], [2.0], [3.0], [4.0]])


class Line(nn.Module):
    """y = w x; notes the mode it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.w * x


def squared(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch).square().mean()
    return loss


def trained(epochs: int, lr: float = 0.1, loss: Any = squared, **more: Any) -> Line:
    model = Line().eval()
    options: dict[str, Any] = {"batches": lambda seed: X.split(2), "seed": 3, "name": "Mine"}
    options |= more
    batches = options.pop("batches")
    train_from_scratch(model, batches, loss, epochs=epochs, lr=lr, **options)
    return model


def test_it_trains_in_train_mode_and_ends_in_eval_mode() -> None:
    model = trained(2)
    assert model.modes == [True] * 4
    assert not model.training
    assert 0.0 < model.w.item() < 1.0


def test_each_epoch_has_batches_of_its_own_seed() -> None:
    seeds: list[int] = []

    def batches(seed: int) -> Any:
        seeds.append(seed)
        return X.split(2)

    trained(3, batches=batches)
    assert seeds == [3000, 3001, 3002]


def test_rates_warm_up_and_fall_as_a_cosine() -> None:
    """Each step of Adam's first kind moves by about the rate: here exactly, as signs agree."""
    rates: list[float] = []

    def noting(model: nn.Module, batch: Any) -> Tensor:
        rates.append(float(model.w.detach()))
        return model.w * batch.sum()  # a constant gradient

    # weight decay 0.01 takes lr * 0.01 * w besides
    model = trained(5, lr=0.01, loss=noting, batches=lambda seed: [torch.ones(1)] * 2)
    values = [*rates, float(model.w.detach())]
    moves = [
        (before - after) / (1.0 + 0.01 * before) for before, after in itertools.pairwise(values)
    ]
    progress = [step / 10 for step in range(10)]
    share = [
        0.05 if p == 0.0 else 0.5 * (1.0 + math.cos(math.pi * (p - 0.1) / 0.9)) for p in progress
    ]
    assert moves == pytest.approx([0.01 * each for each in share], rel=1e-3, abs=1e-7)


def test_a_large_gradient_is_clipped() -> None:
    seen: list[float] = []

    class Watched(Line):
        def __init__(self) -> None:
            super().__init__()
            self.w.register_hook(lambda gradient: seen.append(float(gradient)))

    def steep(model: nn.Module, batch: Any) -> Tensor:
        return 1e9 * model.w * batch.sum()  # type: ignore[no-any-return]

    model = Watched()
    train_from_scratch(model, lambda seed: [X], steep, epochs=1, lr=0.1, seed=0, name="Mine")
    assert seen == [1e10]
    assert model.w.grad is not None
    assert float(model.w.grad) == pytest.approx(5.0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_ends_it_before_the_step(value: float) -> None:
    model = Line()
    with pytest.raises(TrainingError) as caught:
        train_from_scratch(
            model,
            lambda seed: X.split(2),
            lambda m, batch: m(batch).sum() * value,
            epochs=1,
            lr=0.1,
            seed=0,
            name="Mine",
        )
    assert str(caught.value) == (
        f"Mine: the dense model's training loss must be finite, got {value} · lower dense_lr or "
        "override train_dense"
    )
    assert model.w.item() == 1.0


def test_no_batch_is_refused() -> None:
    with pytest.raises(TaskError) as caught:
        trained(1, batches=lambda seed: [])
    assert str(caught.value) == "Mine: train_loader must hold at least one batch"


def test_batches_without_a_length_are_refused_with_the_remedy() -> None:
    with pytest.raises(TaskError) as caught:
        trained(1, batches=lambda seed: iter(X.split(2)))
    assert str(caught.value) == (
        "Mine.train_loader(seed) must have a length, got tuple_iterator · give it a __len__ "
        "(a DataLoader has that of its dataset)"
    )


def test_no_epochs_change_nothing() -> None:
    model = trained(0)
    assert model.w.item() == 1.0
    assert not model.training


def test_each_epochs_mean_loss_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        trained(2, loss=lambda model, batch: model.w * 0.0 + batch.mean())
    assert [record.getMessage() for record in caplog.records] == [
        "dense model, epoch 1 of 2: loss 2.5000",
        "dense model, epoch 2 of 2: loss 2.5000",
    ]


@pytest.mark.parametrize(
    ("batches", "loss", "says"),
    [
        (
            lambda seed: X.split(2),
            lambda model, batch: [][5],
            "Mine: training the dense model failed on a batch of train_loader: IndexError: list "
            "index out of range",
        ),
        (lambda seed: {}["train"], squared, "Mine.train_loader failed: KeyError: 'train'"),
    ],
)
def test_what_the_task_raises_is_named(batches: Any, loss: Any, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        trained(1, loss=loss, batches=batches)
    assert str(caught.value) == says
