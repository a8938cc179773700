"""`wrap_hf` without a tokenizer: examples that have the same size, and others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.errors import TaskError


class Bag(nn.Module):
    """Logits of a bag of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.words(input_ids).mean(1))


def rows(*lengths: int) -> list[dict[str, Any]]:
    return [{"input_ids": [1] * length, "label": n % 2} for n, length in enumerate(lengths)]


def test_texts_of_several_lengths_need_something_that_pads() -> None:
    said = (
        r"several sizes of 'input_ids' \(8, 9\), and nothing pads them · give tokenizer=, or "
        "collate="
    )
    with pytest.raises(TaskError, match=said):
        next(iter(wrapped(8, 9, 8).val_loader()))


def test_texts_of_one_length_need_nothing() -> None:
    batch = next(iter(wrapped(8, 8).val_loader()))
    assert torch.equal(batch["input_ids"], torch.ones(2, 8, dtype=torch.long))


def wrapped(*lengths: int) -> autoprune.Task:
    return autoprune.wrap_hf(Bag(), {"train": rows(*lengths), "validation": rows(*lengths)})
