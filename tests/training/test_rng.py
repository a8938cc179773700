"""Random streams: independent by purpose, put back whatever happens."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stripes import Stripes, dense
from torch import nn

from autoprune.training.rng import RandomState, derive, preserved, seed_all, untrained


def drawn() -> tuple[float, float, float]:
    """One number of each global generator."""
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def test_derived_seeds_differ_by_seed_and_purpose() -> None:
    seeds = {derive(seed, what, n) for seed in range(9) for what in ("a", "b") for n in range(9)}
    assert len(seeds) == 162
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_random_states_are_put_back_after_an_error() -> None:
    def fail() -> None:
        with preserved():
            seed_all(9)
            raise ValueError("inside")

    before = RandomState.now()
    with pytest.raises(ValueError, match="inside"):
        fail()
    assert torch.equal(RandomState.now().torch, before.torch)
    assert RandomState.now().python == before.python


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), st.lists(st.one_of(st.integers(), st.text("ab", max_size=3))))
def test_a_derived_seed_is_what_every_generator_takes(seed: int, purpose: list) -> None:
    found = derive(seed, *purpose)
    assert found == derive(seed, *purpose)
    assert 0 <= found < 2**31


def test_the_first_seeds_stay_what_they_were() -> None:
    """Runs of earlier versions are resumed with them: from SHA-256 of the arguments' text."""
    import hashlib

    digest = hashlib.sha256(b"7:epoch:3").hexdigest()
    assert derive(7, "epoch", 3) == int(digest[:8], 16) // 2


def test_seeding_sets_all_three_generators() -> None:
    with preserved():
        seed_all(5)
        first = drawn()
        seed_all(6)
        other = drawn()
        seed_all(5)
        assert drawn() == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_what_is_drawn_inside_is_not_missed_outside() -> None:
    with preserved():
        expected = [drawn() for _ in range(3)]
    with preserved():
        seed_all(1)
        drawn()
        with preserved():
            drawn()
    with preserved():
        assert [drawn() for _ in range(3)] == expected


def test_a_state_can_be_put_back_more_than_once() -> None:
    with preserved():
        state = RandomState.now()
        first = drawn()
        state.put_back()
        assert drawn() == first
        state.put_back()
        assert drawn() == first
    assert state.cuda == () or torch.cuda.is_initialized()


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (untrained(Stripes(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
    assert not torch.equal(first[0].weight, other[0].weight)  # type: ignore[index]
    assert not first.training


class Pretrained(Stripes):
    """`build_model` answers trained weights, as `dense_epochs = 0` allows."""

    def build_model(self) -> nn.Module:
        return dense()[0]


def test_weights_that_the_task_builds_are_drawn_anew() -> None:
    model = untrained(Pretrained(), 0)
    trained = dense()[0]
    assert not torch.equal(model[0].weight, trained[0].weight)  # type: ignore[index]
    assert torch.equal(model[1].weight, torch.ones(16))  # type: ignore[index]
