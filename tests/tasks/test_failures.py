"""Errors of a task's own code are named in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autoprune.errors import TaskError, TrainingError
from autoprune.tasks.failures import named, read


def test_what_it_raises_begins_with_what_and_where_and_has_its_cause() -> None:
    with pytest.raises(TaskError) as caught, named("Mine.evaluate", "on val"):
        raise RuntimeError("mat1 and mat2\n  differ")
    assert str(caught.value) == "Mine.evaluate failed on val: RuntimeError: mat1 and mat2 differ"
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(TaskError, match=r"^Mine\.loss failed: KeyError$"), named("Mine.loss"):
        raise KeyError


def test_a_batch_of_one_sample_for_a_batch_normalization_has_a_remedy() -> None:
    with pytest.raises(TaskError) as caught, named("Mine.loss"):
        nn.BatchNorm1d(2)(torch.zeros(1, 2))
    assert str(caught.value).startswith("Mine.loss failed: ValueError: Expected more than 1 value")
    assert str(caught.value).endswith(
        " · a batch normalization needs two samples in a batch: leave out the last batch "
        "(drop_last=True of a DataLoader)"
    )


def test_errors_of_autoprune_pass_through() -> None:
    error = TrainingError("loss must be finite")
    with pytest.raises(TrainingError) as caught, named("Mine.loss"):
        raise error
    assert caught.value is error


def test_batches_come_as_they_are_and_a_failing_loader_is_named() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise ValueError("row 7 has no label")

    found = read(batches(), "Mine.train_loader")
    assert next(found) == 1
    with pytest.raises(TaskError, match=r"^Mine\.train_loader failed: ValueError: row 7 has"):
        next(found)
    assert list(read([1, 2], "x")) == [1, 2]


class Broken(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        raise LookupError(f"file {index} is gone")


def test_of_a_worker_of_a_data_loader_the_last_line_is_the_cause() -> None:
    with pytest.raises(TaskError) as caught:
        list(read(DataLoader(Broken(), num_workers=1), "Mine.train_loader"))
    assert str(caught.value) == "Mine.train_loader failed: LookupError: file 0 is gone"
