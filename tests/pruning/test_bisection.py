from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.pruning.bisection import faults


def asked(names: Sequence[str], bad: Collection[str]) -> tuple[set[str], int]:
    """What is found, and the number of tries."""
    tries: list[list[str]] = []

    def accept(some: list[str]) -> str:
        tries.append(some)
        return "it fails" if set(bad) & set(some) else ""

    return set(faults(names, accept)), len(tries)


def test_a_part_that_fails_in_every_layer_condemns_no_other_part() -> None:
    bad = {"block.0.layer.1", "block.1.layer.1", "block.2.layer.1"}
    names = [f"block.{block}.layer.{part}" for block in range(3) for part in range(3)]
    found = faults(names, lambda some: "it fails" if bad & set(some) else "")
    assert set(found) == bad


def test_the_number_of_tries_does_not_grow_with_the_layers() -> None:
    tries: list[int] = []
    for layers in (4, 64):
        names = [f"{layer}.{part}" for layer in range(layers) for part in "abc"]
        bad = {f"{layer}.b" for layer in range(layers)}
        found, count = asked(names, bad)
        assert found == bad
        tries.append(count)
    assert tries[1] == tries[0] == 8  # all; a; b, and each of four; c


@pytest.mark.parametrize("layers", [(2, 3), (2, 8, 10, 20), (24,) * 4])
def test_nor_with_the_stages_where_the_layers_are_numbered_anew_in_each(
    layers: tuple[int, ...],
) -> None:
    names = [
        f"stages.{stage}.{layer}.{part}"
        for stage, count in enumerate(layers)
        for layer in range(count)
        for part in ("conv.0", "conv", "norm")
    ]
    bad = {name for name in names if name.endswith("conv")}
    assert asked(names, bad) == (bad, 8)
    assert asked(names, set()) == (set(), 1)


@pytest.mark.parametrize(
    "names",
    [
        [f"block.{block}.layer.{part}" for block in range(5) for part in range(3)],
        [f"{stage}.{layer}.{part}" for stage in range(2) for layer in range(4) for part in "ab"],
        [f"b.{stage}.{layer}.{n}" for stage in range(2) for layer in range(3) for n in range(2)],
    ],
)
def test_whichever_of_the_last_numbers_fail_they_alone_are_found(names: list[str]) -> None:
    last = sorted({name[-1] for name in names})
    some = [set(chosen) for n in range(len(last) + 1) for chosen in itertools.combinations(last, n)]
    for chosen in some:
        bad = {name for name in names if name[-1] in chosen}
        assert asked(names, bad)[0] == bad
    for end in {name[-3:] for name in names}:  # of the last two
        bad = {name for name in names if name.endswith(end)}
        assert asked(names, bad)[0] == bad


def test_the_first_or_the_last_layer_of_each_stage_condemns_no_other() -> None:
    names = [f"stages.{stage}.{layer}" for stage in range(4) for layer in range(12)]
    for layer in ("0", "11"):
        bad = {name for name in names if name.endswith(f".{layer}")}
        found, tries = asked(names, bad)
        assert found == bad
        assert tries < 16


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_fault_is_found_and_a_few_that_are_not_alike_condemn_nothing(
    data: st.DataObject,
) -> None:
    layers, parts = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    names = [f"s.{layer}.{part}.w" for layer in range(layers) for part in range(parts)]
    names = sorted(data.draw(st.sets(st.sampled_from(names), min_size=1)))
    bad = data.draw(st.sets(st.sampled_from(names)))
    found, _ = asked(names, bad)
    assert bad <= found
    if len(bad) < 4:
        assert found == bad


def test_what_fails_only_together_loses_the_least_that_it_can() -> None:
    """Any one layer has to stay."""
    names = [f"layers.{n}" for n in range(10)]
    good: set[str] = set()

    def accept(some: list[str]) -> str:
        if len(good | set(some)) == len(names):
            return "one is needed"
        good.update(some)
        return ""

    assert len(faults(names, accept)) == 1


def test_each_fault_has_what_was_seen_of_its_kind() -> None:
    names = [f"{layer}.{part}" for layer in range(9) for part in "ab"]
    seen = faults(names, lambda some: next((f"no {n[-1]}" for n in some if n[-1] in "ab"), ""))
    assert seen == {name: f"no {name[-1]}" for name in names}


def test_nothing_is_tried_where_there_is_nothing() -> None:
    assert asked([], set()) == (set(), 0)
