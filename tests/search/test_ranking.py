import numpy as np
import toy

from autoprune._search.allocation.ranking import Ranking
from autoprune.architecture import Architecture
from autoprune.space import SearchSpace


def price(kept) -> float:
    return float(toy.price(Architecture(kept)).macs or 0)


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
