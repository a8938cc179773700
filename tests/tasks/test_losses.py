"""What counts as a training loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoprune.errors import TaskError
from autoprune.tasks.losses import loss_in


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (torch.tensor(2.0), 2.0),
        (torch.tensor([[2.0]]), 2.0),
        ({"box": torch.tensor(1.0), "cls": torch.tensor([0.5])}, 1.5),
        ({"loss": torch.tensor(3.0), "box": torch.tensor(1.0), "shown": [1]}, 3.0),
    ],
)
def test_a_scalar_comes_out(answer: Any, value: float) -> None:
    found = loss_in("step", answer)
    assert (found.shape, found.item()) == ((), value)


def test_the_sum_has_gradients_of_every_loss() -> None:
    x, y = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    loss_in("step", {"a": x * x, "b": 5.0 * y}).backward()
    assert (x.grad, y.grad) == (torch.tensor(4.0), torch.tensor(5.0))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "step must give a scalar tensor or a mapping of them, got NoneType"),
        (torch.zeros(3), r"step must give a scalar tensor .* got shape \(3,\)"),
        ({"loss": 1.0}, r"step\['loss'\] must give a scalar tensor .* got float"),
        ({"box": torch.zeros(2)}, r"step\['box'\] must give a scalar tensor"),
        ({}, "step must give a loss, got an empty mapping"),
    ],
)
def test_anything_else_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        loss_in("step", answer)
