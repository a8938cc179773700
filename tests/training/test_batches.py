from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from stripes import Stripes
from torch import Tensor

from autoprune.training.batches import BatchStream, sample
from autoprune.training.rng import seed_all


class Noisy(Stripes):
    """Augments with all three global generators, as users do."""

    def train_loader(self, seed: int) -> list[Tensor]:
        class Loader(list):
            def __iter__(self) -> object:
                for _ in range(4):
                    yield torch.tensor([torch.rand(()), np.random.rand(), random.random()])  # noqa: NPY002

        return Loader(range(4))


def test_batches_depend_on_seed_and_place_alone() -> None:
    one, other = BatchStream(Noisy(), 0), BatchStream(Noisy(), 0)
    first = [next(one) for _ in range(9)]
    second = []
    for step in range(9):
        second.append(next(other))
        seed_all(step)  # the model's randomness, other code
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[4])  # another epoch
    assert not torch.equal(first[0], next(BatchStream(Noisy(), 1)))


@pytest.mark.parametrize("step", [0, 3, 4, 6, 8])
def test_a_stream_can_be_entered_anywhere(step: int) -> None:
    whole, entered = BatchStream(Noisy(), 5), BatchStream(Noisy(), 5)
    batches = [next(whole) for _ in range(10)]
    entered.seek(step)
    assert torch.equal(next(entered), batches[step])
    assert torch.equal(next(entered), batches[step + 1])


class Listed(Stripes):
    """Five batches in a list, whatever the seed is."""

    def train_loader(self, seed: int) -> list[Tensor]:
        return [torch.full((1,), float(n)) for n in range(5)]


def test_a_list_is_read_in_an_order_of_the_seed() -> None:
    def orders(seed: int) -> list[tuple[float, ...]]:
        stream = BatchStream(Listed(), seed)
        return [tuple(next(stream).item() for _ in range(5)) for _ in range(3)]

    found = orders(0)
    assert all(sorted(order) == [0.0, 1.0, 2.0, 3.0, 4.0] for order in found)
    assert len({*found, *orders(1)}) > 3
    assert orders(0) == found
    late = BatchStream(Listed(), 0)
    late.seek(7)
    assert next(late).item() == found[1][2]


def test_the_callers_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    seed_all(1)
    expected = (torch.rand(()), np.random.rand(), random.random())  # noqa: NPY002
    seed_all(1)
    next(BatchStream(Noisy(), 0))
    sample(Noisy(), 0, samples=3)
    assert (torch.rand(()), np.random.rand(), random.random()) == expected  # noqa: NPY002


def test_a_sample_holds_enough_items_and_batches() -> None:
    assert len(sample(Stripes(), 0, samples=33)) == 3  # batches of 16
    assert len(sample(Stripes(), 0, samples=1)) == 2
    assert len(sample(Stripes(), 0, samples=1, least=1)) == 1
    assert len(sample(Stripes(), 0, samples=10_000)) == 6  # the whole epoch
