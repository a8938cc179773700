from typing import Any

import numpy as np
import pytest
import torch
from stripes import Stripes
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.metrics import evaluated


class Answers(Stripes):
    def __init__(self, found: Any, metric: str = "accuracy") -> None:
        self.found, self.metric, self.asked = found, metric, []

    def evaluate(self, model: nn.Module, split: str) -> Any:
        self.asked.append(split)
        return self.found


def test_tensors_and_numbers_of_numpy_become_floats() -> None:
    task = Answers({"a": torch.tensor(0.5), "b": np.float32(0.25), "c": 1, "d": True})
    found = evaluated(task, nn.Identity(), "test")
    assert found == {"a": 0.5, "b": 0.25, "c": 1.0, "d": 1.0}
    assert {type(value) for value in found.values()} == {float}
    assert task.asked == ["test"]


@pytest.mark.parametrize("metric", ["epoch", "params", "lr"])
def test_names_of_the_history_are_taken(metric: str) -> None:
    task = Answers({metric: 1.0}, metric)
    with pytest.raises(TaskError) as caught:
        evaluated(task, nn.Identity(), "val")
    assert str(caught.value) == (
        f"Answers.metric must not be called {metric!r} · choose another name"
    )
    assert task.asked == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("high", "'high'"),
        (torch.zeros(2), "tensor([0., 0.])"),
        ([1, 2], "[1, 2]"),
        ("x" * 200, "'" + "x" * 79),
    ],
)
def test_what_is_no_number_is_named(value: Any, shown: str) -> None:
    with pytest.raises(TaskError) as caught:
        evaluated(Answers({"accuracy": 1.0, "bad": value}), nn.Identity(), "val")
    assert str(caught.value) == (f"Answers.evaluate must answer numbers, got 'bad': {shown} on val")


class Unread(Stripes):
    def val_loader(self) -> Any:
        raise OSError("no images in /data")


def test_a_split_that_cannot_be_read_is_named() -> None:
    says = r"^Unread\.evaluate failed on val: OSError: no images in /data$"
    with pytest.raises(TaskError, match=says):
        evaluated(Unread(), nn.Linear(4, 3), "val")
