import pickle

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Selection
from autoprune.errors import ConfigError
from autoprune.fitted_space import FittedSpace
from autoprune.presets import presets
from autoprune.settings import Parameter
from autoprune.space import SearchSpace, kept_units

SIZES = {"stem": 16, "layer1.conv1": 64, "head": 10, "tiny": 1}


def fitted(
    spec: dict[str, object], sizes: dict[str, int] = SIZES, optimizer: str = "sgd"
) -> FittedSpace:
    return FittedSpace.of(SearchSpace.parse(spec).for_optimizer(optimizer), sizes)


@pytest.mark.parametrize(
    ("size", "ratio", "round_to", "kept"),
    [
        (64, 0.5, 8, 32),
        (64, 0.55, 8, 32),  # 28.8 is nearer to 32 than to 24
        (64, 0.5625, 8, 32),  # 28 lies between 24 and 32: ties keep more
        (64, 0.0, 8, 64),
        (64, 0.99, 8, 8),
        (10, 0.0, 4, 10),  # the step is 2: 10 // 4
        (11, 0.05, 2, 10),  # 10.45 is nearer to 10 than to 11
        (16, 0.5, 64, 8),  # a group of 16 keeps four choices: step 4
        (3, 0.9, 8, 1),
        (1, 0.9, 8, 1),
    ],
)
def test_kept_units_is_the_nearest_multiple_of_the_effective_step(
    size: int, ratio: float, round_to: int, kept: int
) -> None:
    assert kept_units(size, ratio, round_to) == kept


@given(
    size=st.integers(1, 600), ratio=st.floats(0.0, 0.999), round_to=st.sampled_from([1, 2, 4, 8])
)
def test_kept_units_agrees_with_a_search_over_all_allowed_numbers(
    size: int, ratio: float, round_to: int
) -> None:
    step = min(round_to, max(1, size // 4))
    allowed = {*range(step, size + 1, step), size}
    distance = min(abs(units - size * (1 - ratio)) for units in allowed)
    kept = kept_units(size, ratio, round_to)
    assert kept in allowed
    assert abs(kept - size * (1 - ratio)) == pytest.approx(distance, abs=1e-8)
    assert kept_units(size, 1 - kept / size, round_to) == kept


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
        space.params(Candidate(Architecture(), Selection("bn_scale")))


def test_a_space_survives_the_way_to_a_worker() -> None:
    for space in (SearchSpace.parse(WIDE), fitted(WIDE)):
        assert pickle.loads(pickle.dumps(space)) == space


def test_presets_are_spaces() -> None:
    spaces = {
        name: SearchSpace.parse(yaml.safe_load(file.read_text()))
        for name, file in presets().items()
    }
    assert {"channels", "channels_and_schedule", "quick"} <= set(spaces)
    assert spaces["channels"].varied == ()
    assert spaces["quick"].per == "global"
    for optimizer, lowest in (("sgd", 0.003), ("adamw", 0.00005)):
        space = spaces["channels_and_schedule"].for_optimizer(optimizer)
        (rate,) = (p for p in space.varied if p.name.startswith("recovery.lr"))
        assert (rate.name, rate.low) == ("recovery.lr", lowest)


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
        return space.candidate(drawn).key

    assert key(0.0, 0.5) == key(0.0, 1.0)
    assert key(0.1, 0.5) != key(0.1, 1.0)
    candidate = space.candidate({"schedule.begin": 0.0, "recovery.regularizer": 1.0})
    assert space.candidate(space.params(candidate)) == candidate


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"ratio": {"max": 0.5}}, "space.ratio is not a key · did you mean 'ratios'?"),
        ({"recovery": {"learning": 1}}, "space.recovery.learning is not a key"),
        ({"schedule": {"kinds": "cubic"}}, "did you mean 'kind'?"),
        ({"ratios": {"max": 1.0}}, r"space.ratios.max must lie in \[0, 1\), got 1.0"),
        ({"ratios": {"min": 0.9}}, "0 <= min <= max < 1"),
        ({"ratios": 0.5}, "space.ratios must be a mapping"),
        ({"ratios": {"per": "layer"}}, "one of group, global, got 'layer'"),
        ({"round_to": 0}, "space.round_to must lie in"),
        ({"round_to": 2.5}, "space.round_to must be a whole number or auto, got 2.5"),
        ({"importance": "l3"}, "space.importance must be one of l1, l2"),
        ({"importance": {"min": 0, "max": 1}}, "takes a value or a list"),
        ({"repair": "yes"}, "space.repair must be true or false"),
        (
            {"schedule": {"kind": "linear", "begin": 0.4, "end": {"min": 0.1, "max": 0.3}}},
            "space.schedule.begin must not be above end, got begin=0.4, end=0.3",
        ),
        ({"schedule": {"steps": 10**9}}, r"space.schedule.steps must lie in \[1, 100\]"),
        ({"round_to": 10**9}, r"space.round_to must lie in \[1, 4096\]"),
        ({"recovery": {"lr": 1e300}}, r"space.recovery.lr must lie in \(0, 100\], got 1e\+300"),
        ({"schedule": {"kind": []}}, "space.schedule.kind is an empty list"),
        ({"schedule": {"kind": ["cubic", "cube"]}}, r"space.schedule.kind\[1\]"),
        ({"recovery": {"lr": {"min": 0.1}}}, "is a range and needs max"),
        ({"recovery": {"lr": {"min": 0.1, "max": 0.01}}}, "min must not be above max"),
        ({"recovery": {"lr": 0}}, r"space.recovery.lr must lie in \(0, 100\]"),
        ({"recovery": {"lr": {"sgd": 0}}}, r"space.recovery.lr.sgd must lie in \(0, 100\]"),
        ({"recovery": {"lr": {"sdg": 1}}}, "recovery.lr.sdg is not a key · did you mean 'sgd'"),
        ({"recovery": {"lr.sgd": 0.1}}, "space.recovery.lr.sgd is not a key"),
        ({"recovery": {"distillation": {"sgd": 0.1}}}, "distillation.sgd is not a key"),
        ({"recovery": {"optimizer": "adam"}}, "one of auto, sgd, adamw, task, got 'adam'"),
        ({"recovery": {"warmup": 1.0}}, r"space.recovery.warmup must lie in \[0, 1\)"),
        ({"recovery": {"grad_clip": -1}}, r"space.recovery.grad_clip must lie in \[0, 1e\+09\]"),
        ({"recovery": {"regularizer": {"min": 0, "max": 1, "log": True}}}, "needs min above 0"),
        ({"recovery": {"distillation": 1.5}}, r"must lie in \[0, 1\], got 1.5"),
        ({"recovery": {"lr": "fast"}}, "must be a number, got 'fast'"),
    ],
)
def test_a_mistake_names_its_place(spec: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchSpace.parse(spec)


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


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (0.7, r"space.depth must be true, false or a mapping such as .max: 0.7., got 0.7"),
        ({"most": 0.5}, "space.depth.most is not a key"),
        ({"max": 1.5}, r"space.depth.max must lie in \[0, 1\], got 1.5"),
    ],
)
def test_a_wrong_depth_is_refused(written: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchSpace.parse({"depth": written})
