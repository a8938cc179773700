"""A task's loss and outputs that fail on a batch say which, in one line."""

from __future__ import annotations

import pytest
import torch
from stripes import Stripes
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.on_batches import loss_of, outputs_of


def test_labels_out_of_range_name_the_task_the_loader_and_the_batch() -> None:
    batch = torch.zeros(2, 4), torch.tensor([0, 5])
    with pytest.raises(TaskError) as caught:
        loss_of(Stripes(), nn.Linear(4, 3), batch)
    assert str(caught.value) == (
        "Stripes.loss failed on a batch of train_loader (2x4 float32, 2 int64): IndexError: "
        "Target 5 is out of bounds."
    )


def test_a_wrong_width_names_them_too() -> None:
    with pytest.raises(TaskError) as caught:
        outputs_of(Stripes(), nn.Linear(8, 3), (torch.zeros(2, 4), torch.tensor([0, 1])))
    assert str(caught.value) == (
        "Stripes.outputs failed on a batch of train_loader (2x4 float32, 2 int64): RuntimeError: "
        "mat1 and mat2 shapes cannot be multiplied (2x4 and 8x3)"
    )
