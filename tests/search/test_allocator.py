import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import toy

from autoprune._search.allocation.allocator import Allocator, Item
from autoprune.architecture import Architecture
from autoprune.space import SearchSpace

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks" / "allocator"
WEIGHTS = {"a": 1.0, "b": 4.0, "c": 0.5}


@pytest.fixture(scope="module")
def instances() -> ModuleType:
    """The random problems of the benchmark."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("instances")
    finally:
        sys.path.remove(str(FOLDER))


def sensitivity(name: str, kept: int) -> float:
    return WEIGHTS[name] * (1.0 - kept / toy.SIZES[name]) ** 2


def price(kept) -> float:
    return float(toy.price(Architecture(kept)).macs or 0)


def solve(instance) -> dict[str, int]:
    allocator = Allocator(instance.items, instance.sensitivity, instance.load)
    return allocator.at(instance.limits)


def check_against_brute_force(instances: ModuleType, seeds: range) -> None:
    for seed in seeds:
        instance = instances.small(seed)
        found = solve(instance)
        assert instance.within(found)
        assert instance.harm(found) <= 1.02 * instances.brute_force(instance) + 1e-12, seed


def check_against_uniform(instances: ModuleType, seeds: range) -> None:
    for seed in seeds:
        instance = instances.middle(seed)
        found, uniform = solve(instance), instances.uniform(instance)
        assert instance.within(found)
        if uniform is not None:
            assert instance.harm(found) <= instance.harm(uniform) * (1.0 + 1e-9), seed


def test_small_problems_are_solved_within_2_percent_of_brute_force(instances: ModuleType) -> None:
    check_against_brute_force(instances, range(10))


def test_it_is_never_worse_than_uniform_widths_filled_up(instances: ModuleType) -> None:
    check_against_uniform(instances, range(5))


@pytest.mark.slow
def test_200_small_problems_are_solved_within_2_percent(instances: ModuleType) -> None:
    check_against_brute_force(instances, range(200))


@pytest.mark.slow
def test_1000_problems_are_solved_no_worse_than_by_uniform_widths(instances: ModuleType) -> None:
    check_against_uniform(instances, range(1000))


@pytest.mark.parametrize("step", [2, 8])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_widths_are_the_best_of_all_for_a_product_cost(share: float, step: int) -> None:
    plan = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.8}, "round_to": step}))
    options = {name: plan.space.choices(name) for name in toy.SIZES}
    allocator = Allocator.of_widths(options, sensitivity, price)
    limit = share * price(toy.SIZES)
    found = allocator.at(limit)
    best = min(
        sum(sensitivity(name, units) for name, units in kept.items())
        for units in itertools.product(*options.values())
        if price(kept := dict(zip(options, units, strict=True))) <= limit
    )
    assert price(found) <= limit
    assert allocator.total(found) == pytest.approx(best)


def test_a_cost_that_is_flat_over_several_widths_is_looked_through() -> None:
    # ceil(width / 8): 15 saves nothing over 16, so one step ahead sees no way down for "a"
    items = [Item("a", tuple(range(1, 17))), Item("b", tuple(range(1, 17)))]
    allocator = Allocator(
        items,
        lambda name, kept: {"a": 0.01, "b": 1.0}[name] * (16 - kept),
        lambda widths: np.ceil(widths / 8).sum(axis=1),
    )
    assert allocator.at(3.0) == {"a": 8, "b": 16}


def test_a_peak_is_lowered_where_two_layers_hold_it_together() -> None:
    # max(a, b) <= 2: lowering either alone changes nothing
    items = [Item("a", (1, 2, 4)), Item("b", (1, 2, 4)), Item("c", (1, 2))]
    allocator = Allocator(items, lambda _, kept: 1.0 / kept, lambda w: w.max(axis=1))
    assert allocator.at(2.0) == {"a": 2, "b": 2, "c": 2}


BLOCK = [Item("block", (0, 1)), Item("a", (1, 2), "block"), Item("b", (1, 2))]


def of_blocks(dropped: float) -> Callable[[str, int], float]:
    table = {("block", 0): dropped, ("a", 1): 2.0, ("b", 1): 5.0}
    return lambda name, option: table.get((name, option), 0.0)


def blocks_load(chosen) -> np.ndarray:
    """4 a unit inside the block, where it is there, and 1 a unit outside."""
    return 4.0 * chosen[:, 0] * chosen[:, 1] + chosen[:, 2]


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        (1.0, {"block": 0, "a": 2, "b": 2}),  # 1 instead of 2; a has no effect, and counts as whole
        (3.0, {"block": 1, "a": 1, "b": 2}),  # 2 instead of 3
    ],
)
def test_a_block_is_dropped_where_that_is_less_sensitive(dropped, expected) -> None:
    allocator = Allocator(BLOCK, of_blocks(dropped), blocks_load)
    found = allocator.at(6.0)  # whole 10
    assert found == expected
    assert allocator.total(found) == min(dropped, 2.0)


def test_a_precision_counts_for_everything() -> None:
    items = [Item("precision", (8, 32), is_global=True), Item("a", (1, 2)), Item("b", (1, 2))]
    table = {("precision", 8): 3.0, ("a", 1): 2.0, ("b", 1): 2.0}

    def load(chosen) -> np.ndarray:
        return chosen[:, 0] / 32.0 * (chosen[:, 1] + chosen[:, 2])

    allocator = Allocator(items, lambda name, option: table.get((name, option), 0.0), load)
    assert allocator.at(4.0) == {"precision": 32, "a": 2, "b": 2}
    assert allocator.at(3.0) in ({"precision": 32, "a": a, "b": 3 - a} for a in (1, 2))  # 2
    assert allocator.at(2.0) == {"precision": 8, "a": 2, "b": 2}  # 3 instead of 4


def test_each_limit_holds_by_itself() -> None:
    # the columns are a and b: one limit for both would leave b at 1
    items = [Item("a", (1, 2, 3, 4)), Item("b", (1, 2, 3, 4))]
    allocator = Allocator(items, lambda _, kept: 4.0 - kept, lambda w: w.astype(float))
    assert allocator.at([1.0, 3.0]) == {"a": 1, "b": 3}
    assert allocator.at(2.0) == {"a": 2, "b": 2}


def test_a_limit_below_all_gives_the_smallest() -> None:
    options = {"a": [4, 8, 16], "b": [8, 32], "c": [16, 64]}
    allocator = Allocator.of_widths(options, sensitivity, price)
    assert allocator.at(0.0) == allocator.about(0.0) == {"a": 4, "b": 8, "c": 16}


def test_nothing_that_still_fits_is_left_out() -> None:
    options = {"a": [4, 8], "b": [8, 32], "c": [16, 64]}  # coarse: single steps save a lot
    limit = 0.6 * price(toy.SIZES)
    allocator = Allocator.of_widths(options, sensitivity, price)
    for kept in (allocator.at(limit), allocator.about(limit)):
        assert price(kept) <= limit
        for name, units in kept.items():
            for more in options[name]:
                assert more <= units or price({**kept, name: more}) > limit


def test_it_is_no_worse_than_a_start_within_the_limits() -> None:
    rng = np.random.default_rng(0)
    items = [Item(str(place), tuple(range(1, 7))) for place in range(6)]
    table = rng.random((6, 7))

    def rugged(chosen) -> np.ndarray:
        return np.abs(np.sin(chosen @ np.arange(1.0, 7.0) * 12.9898) * 43758.5453) % 1.0

    allocator = Allocator(items, lambda name, kept: table[int(name), kept], rugged, effort=0)
    drawn = rng.integers(1, 7, (4000, 6))
    drawn = drawn[rugged(drawn) <= 0.05]
    starts = [dict(zip("012345", row.tolist(), strict=True)) for row in drawn]
    start = min(starts, key=allocator.total)
    found = allocator.at(0.05, [start])
    assert allocator.total(found) <= allocator.total(start)
    assert rugged(np.array([list(found.values())]))[0] <= 0.05


def test_equal_problems_have_equal_answers(instances: ModuleType) -> None:
    assert solve(instances.middle(3)) == solve(instances.middle(3))
