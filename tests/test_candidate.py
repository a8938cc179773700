"""One point of the search: its parts, its stages, its key."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection, Stage
from autoprune.schedule import Schedule

WHOLE = Candidate.planned(
    Architecture({"a": 4, "b": 6}, ["tail"], {"a.weight": "0.5"}, "int8"),
    {"a": 16, "b": 6},
    selection=Selection("taylor", repair=False),
    schedule=Schedule("linear", 0.0, 0.5, 3),
    recovery=Recovery(0.1, 0.25, 2.0, "sgd", 0.001, 1.0, 0.1, "slimming"),
)


def test_the_stages_of_a_candidate_end_at_its_architecture() -> None:
    widths = [stage.architecture.widths for stage in WHOLE.removals]
    assert widths == [{"a": 12, "b": 6}, {"a": 8, "b": 6}, {"a": 4, "b": 6}]
    assert [stage.progress for stage in WHOLE.removals] == [0.0, 0.25, 0.5]
    assert WHOLE.removals[-1].architecture == WHOLE.architecture
    assert {stage.architecture.dropped for stage in WHOLE.removals} == {("tail",)}
    assert {stage.architecture.precision for stage in WHOLE.removals} == {"int8"}


def test_stages_have_their_share_of_the_zeros_and_end_with_all() -> None:
    last = Architecture({"g": 4}, patterns={"a": "0.8", "b": "1:4", "c": "2:4"})
    made = Candidate.planned(last, {"g": 8}, schedule=Schedule("linear", 0.0, 0.5, 4))
    found = [dict(stage.architecture.patterns) for stage in made.stages]
    # of 0.8 a quarter each; of three zeros in four 0.75 -> 1, 1.5 -> 2, 2.25 -> 2
    assert found == [
        {"a": "0.2", "b": "3:4", "c": "3:4"},
        {"a": "0.4", "b": "2:4", "c": "3:4"},
        {"a": "0.6", "b": "2:4", "c": "2:4"},
        {"a": "0.8", "b": "1:4", "c": "2:4"},
    ]


def test_widths_between_are_whole_numbers_halves_up() -> None:
    made = Candidate.planned(
        Architecture({"a": 2}), {"a": 5}, schedule=Schedule("linear", 0.0, 0.5, 2)
    )
    assert [stage.architecture.widths["a"] for stage in made.stages] == [4, 2]  # 3.5 and 2


def test_a_rounding_never_goes_below_the_last_width() -> None:
    made = Candidate.planned(
        Architecture({"a": 6}),
        {"a": 16},
        schedule=Schedule("linear", 0.0, 0.5, 4),
        nearest=lambda name, width: 8 * int(width // 8),
    )
    # 13.5, 11, 8.5 are rounded to 8, and 6 stays
    assert [stage.architecture.widths["a"] for stage in made.stages] == [8, 8, 8, 6]


@given(
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    kind=st.sampled_from(["linear", "cubic", "exponential"]),
    steps=st.integers(2, 6),
)
def test_a_model_only_gets_smaller(
    sizes: list[int], shares: list[float], kind: str, steps: int
) -> None:
    dense = {f"g{place}": size for place, size in enumerate(sizes)}
    last = {n: max(1, int(s * share)) for (n, s), share in zip(dense.items(), shares, strict=False)}
    made = Candidate.planned(Architecture(last), dense, schedule=Schedule(kind, 0.0, 0.5, steps))
    for name, size in dense.items():
        widths = [size, *(stage.architecture.widths[name] for stage in made.removals)]
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] == last[name]


def test_one_removal_needs_no_stages() -> None:
    made = Candidate(Architecture({"a": 4}), schedule=Schedule("one_shot", 0.2, 0.2))
    assert made.removals == (Stage(0.2, Architecture({"a": 4})),)
    assert Candidate.planned(Architecture({"a": 4}), {"a": 8}, schedule=made.schedule) == made


def test_a_gradual_candidate_without_its_stages_is_refused() -> None:
    gradual = Schedule("cubic", 0.0, 0.5, 2)
    with pytest.raises(ValueError, match=r"2 removals needs 2 stages, got 0 .* Candidate.planned"):
        Candidate(Architecture({"a": 4}), Selection(), gradual)
    wrong = tuple(Stage(at, Architecture({"a": 5})) for at in (0.0, 0.5))
    with pytest.raises(ValueError, match="last stage must be"):
        Candidate(Architecture({"a": 4}), Selection(), gradual, stages=wrong)
    with pytest.raises(ValueError, match="1 removals needs no stages, got 1"):
        Candidate(Architecture({"a": 4}), stages=(Stage(0.0, Architecture({"a": 4})),))


def test_it_survives_json_and_the_way_to_a_worker() -> None:
    assert Candidate.from_dict(WHOLE.to_dict()) == WHOLE
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE


def test_equal_candidates_have_equal_keys_and_hashes() -> None:
    again = Candidate.from_dict(WHOLE.to_dict())
    assert again.key == WHOLE.key
    assert hash(again) == hash(WHOLE)
    assert {WHOLE, again} == {WHOLE}
    assert len(WHOLE.key) == 12
    assert set(WHOLE.key) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "other",
    [
        WHOLE.in_precision("float32"),
        dataclasses.replace(WHOLE, selection=Selection("taylor")),
        dataclasses.replace(WHOLE, selection=Selection("l1", repair=False)),
        dataclasses.replace(WHOLE, schedule=Schedule("linear", 0.1, 0.5, 3)),
        *(
            dataclasses.replace(
                WHOLE, recovery=dataclasses.replace(WHOLE.recovery, **{name: value})
            )
            for name, value in {
                "lr": None,
                "distillation": 0.3,
                "regularizer": 1.0,
                "optimizer": "adamw",
                "weight_decay": None,
                "grad_clip": 2.0,
                "warmup": 0.2,
                "penalty": "task",
            }.items()
        ),
    ],
)
def test_everything_that_trains_otherwise_counts_in_the_key(other: Candidate) -> None:
    assert other.key != WHOLE.key


def test_the_default_penalty_leaves_keys_as_they_were_before_there_was_one() -> None:
    assert "penalty" not in Recovery().to_dict()
    assert Recovery(penalty="slimming").to_dict()["penalty"] == "slimming"
    assert Recovery(**Recovery().to_dict()) == Recovery()


def test_precision_is_changed_in_every_stage() -> None:
    made = WHOLE.in_precision("float32")
    assert {stage.architecture.precision for stage in made.removals} == {"float32"}
    assert made.architecture.precision == "float32"
    assert made.in_precision("int8") == WHOLE


@pytest.mark.parametrize(
    ("recovery", "auto", "resolved"),
    [
        (Recovery(), "sgd", ("sgd", 0.01, 5e-4)),
        (Recovery(), "task", ("task", 0.001, 0.01)),
        (Recovery(optimizer="adamw"), "sgd", ("adamw", 0.0003, 0.01)),
        (Recovery(lr=0.2), "sgd", ("sgd", 0.2, 5e-4)),
        (Recovery(weight_decay=0.0), "adamw", ("adamw", 0.0003, 0.0)),
    ],
)
def test_what_is_open_is_the_optimizers_default(
    recovery: Recovery, auto: str, resolved: tuple[str, float, float]
) -> None:
    found = recovery.resolved(auto)
    assert (found.optimizer, found.lr, found.weight_decay) == resolved
    assert found.resolved("task") == found


@pytest.mark.parametrize(
    ("importance", "repair", "needed"),
    [("l2", True, True), ("l2", False, False), ("obs", False, True), ("wanda", False, True)],
)
def test_statistics_are_needed_for_repair_and_by_two_importances(
    importance: str, repair: bool, needed: bool
) -> None:
    assert Selection(importance, repair).needs_calibration is needed


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"lr": 0.0}, "recovery.lr must be above 0 and finite, got 0.0"),
        ({"lr": math.inf}, "recovery.lr must be above 0 and finite, got inf"),
        ({"lr": math.nan}, "recovery.lr must be above 0 and finite, got nan"),
        ({"distillation": 1.5}, "recovery.distillation must lie in [0, 1], got 1.5"),
        ({"warmup": 1.0}, "recovery.warmup must lie in [0, 1), got 1.0"),
        ({"optimizer": "adam"}, "recovery.optimizer must be one of auto, sgd, adamw, task, got 'a"),
        ({"penalty": "l1"}, "recovery.penalty must be one of group_lasso, slimming, task, got 'l1"),
        ({"regularizer": -1.0}, "recovery.regularizer must be at least 0 and finite, got -1.0"),
        ({"regularizer": None}, "recovery.regularizer must be at least 0 and finite, got None"),
        ({"weight_decay": math.inf}, "recovery.weight_decay must be at least 0 and finite, got in"),
        ({"grad_clip": math.nan}, "recovery.grad_clip must be at least 0 and finite, got nan"),
    ],
)
def test_what_cannot_train_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match="recovery") as caught:
        Recovery(**fields)
    assert str(caught.value).startswith(says)


def test_an_unknown_importance_is_refused() -> None:
    says = "importance must be one of l1, l2, group, bn_scale, fpgm, .*, task, got 'l3'"
    with pytest.raises(ValueError, match=says):
        Selection("l3")
