"""A space applied to a model: values become candidates, and candidates values."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.space import FittedSpace, SearchSpace, kept_units
from autoprune.space.settings import Parameter

SIZES = {"stem": 16, "layer1.conv1": 64, "head": 10, "tiny": 1}


def fitted(
    spec: dict[str, object], sizes: dict[str, int] = SIZES, optimizer: str = "sgd"
) -> FittedSpace:
    return FittedSpace.of(SearchSpace.parse(spec).for_optimizer(optimizer), sizes)


WIDE = {
    "ratios": {"max": 0.8, "min": 0.1},
    "round_to": 4,
    "importance": ["l1", "l2"],
    "repair": [True, False],
    "schedule": {
        "kind": ["one_shot", "cubic", "linear"],
        "begin": [0.0, 0.2],
        "end": {"min": 0.1, "max": 0.6},
        "steps": [2, 4],
    },
    "recovery": {
        "lr": {"min": "1e-3", "max": 0.1, "log": True},
        "distillation": {"min": 0.0, "max": 0.9},
        "regularizer": [0.001, 1.0],
        "optimizer": ["auto", "sgd"],
        "weight_decay": {"sgd": [1e-4, 1e-3], "adamw": {"min": 0.001, "max": 0.1, "log": True}},
        "grad_clip": [0.0, 1.0],
        "warmup": {"min": 0.0, "max": 0.2},
    },
}


def drawn(space: FittedSpace, data: st.DataObject) -> dict[str, object]:
    def draw(parameter: Parameter) -> object:
        if parameter.choices:
            return data.draw(st.sampled_from(parameter.choices))
        return data.draw(st.floats(parameter.low, parameter.high))

    return {parameter.name: draw(parameter) for parameter in space.parameters}


@settings(max_examples=60)
@given(data=st.data(), per=st.sampled_from(["group", "global"]))
def test_params_and_candidates_turn_into_each_other(data: st.DataObject, per: str) -> None:
    space = fitted({**WIDE, "ratios": {**WIDE["ratios"], "per": per}}, optimizer="adamw")
    candidate = space.candidate(drawn(space, data))
    params = space.params(candidate)
    assert set(params) == {parameter.name for parameter in space.parameters}
    assert space.candidate(params) == candidate
    ratios = candidate.architecture.ratios(SIZES)
    assert candidate.architecture.widths == {
        name: kept_units(size, ratios[name], 4) for name, size in SIZES.items()
    }


def test_groups_that_cannot_lose_a_unit_have_no_parameter() -> None:
    names = [p.name for p in fitted({}).parameters]
    assert names == ["ratio.stem", "ratio.layer1.conv1", "ratio.head"]


def test_one_ratio_for_all_groups() -> None:
    space = fitted({"ratios": {"per": "global", "max": 0.5}})
    assert space.parameters == (Parameter("ratio", 0.0, 0.5),)
    candidate = space.candidate({"ratio": 0.5})
    assert candidate.architecture.widths == {"stem": 8, "layer1.conv1": 32, "head": 5, "tiny": 1}


def test_a_one_shot_schedule_forgets_end_and_steps() -> None:
    space = fitted({"schedule": {"end": {"min": 0.2, "max": 0.6}, "steps": [2, 4]}})
    first = {"ratio.stem": 0.5, "schedule.end": 0.3, "schedule.steps": 2}
    second = {"ratio.stem": 0.5, "schedule.end": 0.5, "schedule.steps": 4}
    assert space.candidate(first).key == space.candidate(second).key


def test_an_end_before_the_beginning_is_moved_to_it() -> None:
    space = fitted({"schedule": {"kind": "linear", "begin": 0.4, "end": [0.1, 0.6]}})
    assert space.candidate({"schedule.end": 0.1}).schedule.end == 0.4


def test_params_of_a_choice_that_the_space_lacks_are_refused() -> None:
    space = fitted({"importance": ["l1", "l2"]})
    with pytest.raises(ValueError, match="importance can be l1, l2, got 'bn_scale'"):
        space.params(Candidate(Architecture({"stem": 8}), Selection("bn_scale")))


def test_a_space_survives_the_way_to_a_worker() -> None:
    for space in (SearchSpace.parse(WIDE), fitted(WIDE)):
        assert pickle.loads(pickle.dumps(space)) == space


@pytest.mark.parametrize(
    ("optimizer", "lr", "weight_decay"),
    [("sgd", 0.01, 5e-4), ("adamw", 0.0003, 0.01), ("task", 0.001, 0.01)],
)
def test_the_optimizer_of_the_model_brings_its_defaults(
    optimizer: str, lr: float, weight_decay: float
) -> None:
    recovery = fitted({}, optimizer=optimizer).candidate({}).recovery
    assert (recovery.optimizer, recovery.lr, recovery.weight_decay) == (optimizer, lr, weight_decay)


def test_what_is_written_for_the_learning_rate_holds_for_every_optimizer() -> None:
    space = fitted({"recovery": {"lr": 0.2, "optimizer": ["sgd", "adamw"]}})
    for optimizer in ("sgd", "adamw"):
        candidate = space.candidate({"recovery.optimizer": optimizer})
        assert (candidate.recovery.optimizer, candidate.recovery.lr) == (optimizer, 0.2)


def test_a_searched_optimizer_has_a_learning_rate_of_its_own() -> None:
    rates = {"sgd": [0.1, 0.2], "adamw": [0.01, 0.02]}
    spec = {"recovery": {"optimizer": ["auto", "sgd"], "lr": rates}}
    space = fitted(spec, optimizer="adamw")
    assert [p.name for p in space.space.varied] == [
        "recovery.optimizer",
        "recovery.lr.sgd",
        "recovery.lr.adamw",
    ]
    drawn = {"recovery.lr.sgd": 0.2, "recovery.lr.adamw": 0.01}
    found = {
        name: space.candidate({**drawn, "recovery.optimizer": name}).recovery
        for name in ("sgd", "adamw")
    }
    assert (found["sgd"].lr, found["adamw"].lr) == (0.2, 0.01)
    assert (found["sgd"].weight_decay, found["adamw"].weight_decay) == (5e-4, 0.01)
    unused = {**drawn, "recovery.lr.sgd": 0.1, "recovery.optimizer": "adamw"}
    assert space.candidate(unused).recovery == found["adamw"]


def test_an_optimizer_that_the_model_decides_leaves_its_settings_open() -> None:
    recovery = FittedSpace.of(SearchSpace.parse({}), SIZES).candidate({}).recovery
    assert (recovery.optimizer, recovery.lr, recovery.weight_decay) == ("auto", None, None)


def test_the_regularizer_of_a_removal_before_training_is_no_other_candidate() -> None:
    space = fitted({"schedule": {"begin": [0.0, 0.1]}, "recovery": {"regularizer": [0.5, 1.0]}})

    def key(begin: float, regularizer: float) -> str:
        drawn = {"schedule.begin": begin, "recovery.regularizer": regularizer}
        return space.candidate({"ratio.stem": 0.5, **drawn}).key

    assert key(0.0, 0.5) == key(0.0, 1.0)
    assert key(0.1, 0.5) != key(0.1, 1.0)
    drawn = {"ratio.stem": 0.5, "schedule.begin": 0.0, "recovery.regularizer": 1.0}
    candidate = space.candidate(drawn)
    assert space.candidate(space.params(candidate)) == candidate


def test_auto_takes_the_targets_step_or_else_four() -> None:
    auto = SearchSpace.parse({"round_to": "auto"})
    assert FittedSpace.of(auto, {"a": 32}, 8).choices("a") == (8, 16, 24, 32)
    assert fitted({"round_to": "auto"}, {"a": 16}).choices("a") == (4, 8, 12, 16)
    fixed = SearchSpace.parse({"round_to": 2})
    assert FittedSpace.of(fixed, {"a": 8}, 8).choices("a") == (2, 4, 6, 8)


def test_stages_have_widths_that_the_space_allows() -> None:
    """48 channels at shares 0.3, 0.6, 0.9 and 1 of a reduction to 20, in steps of 4."""
    schedule = {"kind": "linear", "begin": 0.0, "end": 0.6, "steps": 4}
    space = fitted({"round_to": "auto", "schedule": schedule}, {"a": 48})
    made = space.candidate({"ratio.a": 1.0 - 20 / 48})
    # shares 1/4, 1/2, 3/4 of 28 channels: 41, 34, 27
    assert [stage.architecture.widths["a"] for stage in made.removals] == [40, 36, 28, 20]
    assert [stage.progress for stage in made.removals] == pytest.approx([0.0, 0.2, 0.4, 0.6])


BLOCKS = {"one": ("a",), "two": (), "three": ("b", "c")}
DEEP = FittedSpace.of(SearchSpace.parse({}), {"a": 8, "b": 8, "c": 8, "d": 8}, blocks=BLOCKS)


def test_blocks_are_choices_beside_ratios() -> None:
    names = [p.name for p in DEEP.parameters]
    assert names == [*(f"ratio.{g}" for g in "abcd"), "drop.one", "drop.two", "drop.three"]
    made = DEEP.candidate({"ratio.a": 0.5, "ratio.d": 0.5, "drop.one": True})
    assert made.architecture == Architecture({"b": 8, "c": 8, "d": 4}, ["one"])
    assert DEEP.candidate(DEEP.params(made)) == made
    assert DEEP.counts(made.architecture) == {
        **{"a": 8, "b": 8, "c": 8, "d": 4},
        **{"block:one": 0, "block:two": 1, "block:three": 1},
    }


def test_no_more_blocks_are_dropped_than_may_be() -> None:
    assert DEEP.most_dropped == 2  # 0.7 of 3
    made = DEEP.candidate({f"drop.{name}": True for name in BLOCKS})
    assert len(made.architecture.dropped) == 2


@pytest.mark.parametrize(
    "spec", [{"depth": False}, {"depth": {"max": 0}}, {"ratios": {"per": "global"}}]
)
def test_depth_can_be_turned_off(spec: dict[str, object]) -> None:
    space = FittedSpace.of(SearchSpace.parse(spec), {"a": 8}, blocks={"one": ("a",)})
    assert space.choices("block:one") == (1,)
    assert not any(p.name.startswith("drop.") for p in space.parameters)


def test_a_penalty_without_strength_makes_no_other_candidate() -> None:
    spec = {
        "schedule": {"kind": "linear", "steps": 3},
        "recovery": {"penalty": ["group_lasso", "slimming"], "regularizer": [0.0, 1.0]},
    }
    fitted = FittedSpace.of(SearchSpace.parse(spec), {"g": 8})
    made = {
        (penalty, strength): fitted.candidate(
            {"ratio.g": 0.5, "recovery.penalty": penalty, "recovery.regularizer": strength}
        )
        for penalty in ("group_lasso", "slimming")
        for strength in (0.0, 1.0)
    }
    assert made["slimming", 0.0].key == made["group_lasso", 0.0].key
    assert made["slimming", 1.0].key != made["group_lasso", 1.0].key
    assert made["slimming", 1.0].recovery == Recovery(regularizer=1.0, penalty="slimming")
    for candidate in made.values():
        assert Candidate.from_dict(candidate.to_dict()) == candidate
        assert fitted.candidate(fitted.params(candidate)).key == candidate.key


@pytest.mark.parametrize("widths", [(), (4, 2), (2, 2, 4), (0, 4)])
def test_widths_must_be_ascending_counts(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"widths\['a'\] must be ascending counts, got \("):
        FittedSpace(SearchSpace.parse({}), {"a": widths})


def test_groups_may_have_ranges_of_their_own() -> None:
    space = SearchSpace.parse({"ratios": {"max": 0.5}, "round_to": 1})
    found = FittedSpace.of(space, {"a": 8, "b": 8}, ranges={"b": (0.5, 0.75)})
    assert (found.choices("a"), found.choices("b")) == ((4, 5, 6, 7, 8), (2, 3, 4))
    assert [(p.name, p.low, p.high) for p in found.parameters] == [
        ("ratio.a", 0.0, 0.5),
        ("ratio.b", 0.5, 0.75),
    ]
    made = found.candidate({"ratio.a": 0.9, "ratio.b": 0.0})  # both outside
    assert made.architecture.widths == {"a": 4, "b": 4}
    assert found.sizes == {"a": 8, "b": 8}
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("width", "nearest"), [(0.0, 2), (2.9, 2), (3.0, 4), (3.1, 4), (8.5, 8), (5.0000000001, 6)]
)
def test_the_nearest_width_keeps_more_of_two_as_near(width: float, nearest: int) -> None:
    found = FittedSpace(SearchSpace.parse({}), {"a": (2, 4, 6, 8)})
    assert found.nearest("a", width) == nearest


def test_precision_is_an_item_where_it_may_vary() -> None:
    spec = {"precision": ["float32", "int8"]}
    both = FittedSpace.of(SearchSpace.parse(spec), {"a": 8})
    assert both.items == ("a", "precision:float32")
    assert both.choices("precision:float32") == (0, 1)
    made = both.candidate({"ratio.a": 0.5, "precision": "int8"})
    assert made.architecture == Architecture({"a": 4}, precision="int8")
    assert both.counts(made.architecture) == {"a": 4, "precision:float32": 0}
    assert both.params(made)["precision"] == "int8"
    assert both.architecture({"precision:float32": 0.5}).precision == "float32"  # a tie
    only = FittedSpace.of(SearchSpace.parse({"precision": "int8"}), {"a": 8})
    assert only.candidate({}).architecture.precision == "int8"
    assert [p.name for p in only.parameters] == ["ratio.a"]


def test_of_too_many_blocks_those_with_the_least_count_are_dropped() -> None:
    counts = {"block:one": 0.3, "block:two": 0.1, "block:three": 0.2}
    assert DEEP.architecture(counts).dropped == ("three", "two")
    assert DEEP.architecture({**counts, "block:three": 0.5}).dropped == ("one", "two")


def test_of_too_many_flags_no_part_of_the_model_is_preferred() -> None:
    """27 blocks, 8 may go, 13.5 of random flags: each is dropped in about 8 of 27 draws."""
    blocks = {f"layer{n // 9}.{n % 9}": () for n in range(27)}
    space = FittedSpace.of(SearchSpace.parse({"depth": {"max": 0.3}}), {"a": 8}, blocks=blocks)
    rng = random.Random(0)
    gone: Counter[str] = Counter()
    for _ in range(1000):
        flags = {f"drop.{name}": rng.random() < 0.5 for name in blocks}
        dropped = space.candidate(flags).architecture.dropped
        assert all(flags[f"drop.{name}"] for name in dropped)
        assert len(dropped) == min(8, sum(flags.values()))
        assert space.candidate(flags).architecture.dropped == dropped
        gone.update(dropped)
    shares = [gone[name] / 1000 for name in blocks]
    assert min(shares) > 0.2
    assert max(shares) < 0.4


def test_resized_keeps_how_a_candidate_is_trained() -> None:
    schedule = {"kind": "linear", "end": 0.5, "steps": 2}
    space = fitted({"round_to": 1, "schedule": schedule}, {"a": 16})
    made = space.candidate({"ratio.a": 0.25})
    small = space.resized(made, Architecture({"a": 6}))
    assert (small.selection, small.schedule, small.recovery) == (
        made.selection,
        made.schedule,
        made.recovery,
    )
    assert [stage.architecture.widths["a"] for stage in small.stages] == [11, 6]


def test_widths_that_no_single_ratio_gives_are_refused() -> None:
    space = fitted({"ratios": {"per": "global", "max": 0.5}, "round_to": 1}, {"a": 8, "b": 8})
    made = space.candidate({"ratio": 0.25})
    assert made.architecture.widths == {"a": 6, "b": 6}
    assert 0.1875 <= space.common_ratio(made) <= 0.3125  # 6.5 to 5.5 units
    uneven = space.resized(made, Architecture({"a": 6, "b": 5}))
    with pytest.raises(ValueError, match="no single ratio of this space gives the candidate's wid"):
        space.common_ratio(uneven)


@pytest.mark.parametrize("values", [{"ratio.a": 0.0}, {"drop.b": True}])
def test_the_importance_counts_only_where_something_is_chosen_by_it(
    values: dict[str, float | bool],
) -> None:
    spec = {"importance": ["l2", "obs"], "depth": True, "ratios": {"max": 0.5}}
    space = FittedSpace.of(SearchSpace.parse(spec), {"a": 8}, blocks={"b": ()})
    start = {"ratio.a": 0.0, "drop.b": False, **values}
    made = [space.candidate({**start, "importance": name}) for name in ("l2", "obs")]
    assert made[0].key == made[1].key
    assert space.params(made[1])["importance"] == "l2"
    pruned = [
        space.candidate({**start, "ratio.a": 0.5, "importance": name}) for name in ("l2", "obs")
    ]
    assert pruned[0].key != pruned[1].key
