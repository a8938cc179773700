import itertools

import numpy as np
import pytest
import toy

from autoprune._search.knapsack import Knapsack, Ranking
from autoprune.architecture import Architecture
from autoprune.space import SearchSpace

WEIGHTS = {"a": 1.0, "b": 4.0, "c": 0.5}


def damage(name: str, kept: int) -> float:
    return WEIGHTS[name] * (1.0 - kept / toy.SIZES[name]) ** 2


def price(kept) -> float:
    return float(toy.price(Architecture(kept)).macs or 0)


@pytest.mark.parametrize("step", [2, 8])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_the_allocation_is_near_the_best_of_all(share: float, step: int) -> None:
    plan = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.8}, "round_to": step}))
    options = {name: plan.space.choices(name) for name in toy.SIZES}
    knapsack = Knapsack(options, damage, price)
    found = knapsack.at(share * price(toy.SIZES))
    best = min(
        knapsack.harm(kept)
        for units in itertools.product(*options.values())
        if price(kept := dict(zip(options, units, strict=True))) <= share * price(toy.SIZES)
    )
    assert price(found) <= share * price(toy.SIZES)
    assert knapsack.harm(found) <= 1.25 * best


def test_nothing_that_still_fits_is_left_out() -> None:
    options = {"a": [4, 8], "b": [8, 32], "c": [16, 64]}  # coarse: single steps save a lot
    limit = 0.6 * price(toy.SIZES)
    kept = Knapsack(options, damage, price).at(limit)
    for name, units in kept.items():
        for more in options[name]:
            assert more <= units or price({**kept, name: more}) > limit


def test_a_price_below_all_gives_the_smallest() -> None:
    options = {"a": [4, 8, 16], "b": [8, 32], "c": [16, 64]}
    assert Knapsack(options, damage, price).at(0.0) == {"a": 4, "b": 8, "c": 16}


def test_choices_are_what_the_space_can_keep() -> None:
    plan = toy.make_plan(space=SearchSpace.parse({"ratios": {"max": 0.5}, "round_to": 8}))
    assert plan.space.choices("a") == (8, 12, 16)  # a small group has finer steps
    assert plan.space.choices("c") == (32, 40, 48, 56, 64)


def test_a_ranking_keeps_the_worthiest_units_of_all_that_the_price_allows() -> None:
    plan = toy.make_plan()
    options = {name: plan.space.choices(name) for name in toy.SIZES}
    rng = np.random.default_rng(0)
    worth = {name: rng.lognormal(size=size).tolist() for name, size in toy.SIZES.items()}
    ranking = Ranking(options, worth, price)
    for share in (1.0, 0.7, 0.4):
        limit = share * price(toy.SIZES)
        kept = ranking.at(limit)
        assert price(kept) <= limit
        left = {n: sorted(worth[n], reverse=True)[: kept[n]] for n in kept}
        threshold = max(
            (sorted(worth[n], reverse=True)[kept[n]] for n in kept if kept[n] < toy.SIZES[n]),
            default=0.0,
        )  # the worthiest unit that had to leave
        for name, values in left.items():
            below = [value for value in values if value < threshold]
            fewer = max((units for units in options[name] if units < kept[name]), default=0)
            assert len(below) < kept[name] - fewer or kept[name] == options[name][0]
        assert share < 1.0 or kept == toy.SIZES
    assert ranking.at(0.0) == {name: units[0] for name, units in options.items()}
