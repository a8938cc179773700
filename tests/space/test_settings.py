"""What may be written for the settings of a space, and the distributions that come of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from autoprune.errors import ConfigError
from autoprune.space.settings import (
    SETTINGS,
    Parameter,
    Setting,
    as_mapping,
    check_keys,
    nearest_word,
    read_setting,
    without_optimizer,
)


@pytest.mark.parametrize(
    ("parameter", "value", "clipped"),
    [
        (Parameter("lr", 0.1, 0.5), 0.3, 0.3),
        (Parameter("lr", 0.1, 0.5), 7, 0.5),
        (Parameter("lr", 0.1, 0.5), -1.0, 0.1),
        (Parameter("steps", 2, 6, integer=True), 3.6, 4),
        (Parameter("steps", 2, 6, integer=True), 99, 6),
        (Parameter("kind", choices=("a", "b")), "b", "b"),
        (Parameter("lr", choices=(0.1, 0.2)), 0.2, 0.2),
    ],
)
def test_a_value_is_moved_to_the_nearest_that_can_be_drawn(
    parameter: Parameter, value: Any, clipped: Any
) -> None:
    found = parameter.clip(value)
    assert (found, type(found)) == (clipped, type(clipped))
    assert parameter.clip(found) == found


def test_a_choice_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^kind can be a, b, got 'c'$"):
        Parameter("kind", choices=("a", "b")).clip("c")


def test_words_are_no_numbers() -> None:
    assert Parameter("lr", 0.1, 0.5).is_number
    assert Parameter("lr", choices=(0.1, 0.2)).is_number
    assert not Parameter("optimizer", choices=("sgd", "adamw")).is_number


SWITCH = Setting("switch", True)
WORD = Setting("word", "linear", words=("linear", "cubic"))
RATE = Setting("number", 0.1, high=1.0, open_low=True)
SHARE = Setting("number", 0.1, high=1.0, open_high=True)
COUNT = Setting("integer", 4, low=1, high=100, besides=" or auto")


@pytest.mark.parametrize(
    ("setting", "value", "read"),
    [
        (SWITCH, False, False),
        (WORD, "cubic", "cubic"),
        (RATE, 1, 1.0),
        (RATE, "1e-3", 0.001),
        (SHARE, 0, 0.0),
        (COUNT, 3.0, 3),
        (COUNT, "7", 7),
    ],
)
def test_a_value_is_read_in_its_own_type(setting: Setting, value: Any, read: Any) -> None:
    found = setting.check(value, "space.x")
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        (SWITCH, "yes", "space.x must be true or false, got 'yes'"),
        (SWITCH, 1, "space.x must be true or false, got 1"),
        (
            WORD,
            "cube",
            "space.x must be one of linear, cubic, got 'cube' · did you mean 'cubic'?",
        ),
        (WORD, 3, "space.x must be one of linear, cubic, got 3"),
        (RATE, 0, "space.x must lie in (0, 1], got 0"),
        (SHARE, 1.0, "space.x must lie in [0, 1), got 1.0"),
        (RATE, True, "space.x must be a number, got True"),
        (RATE, "fast", "space.x must be a number, got 'fast'"),
        (RATE, math.nan, "space.x must be a number, got nan"),
        (RATE, "inf", "space.x must be a number, got 'inf'"),
        (COUNT, 2.5, "space.x must be a whole number or auto, got 2.5"),
        (COUNT, 101, "space.x must lie in [1, 100], got 101"),
        (Setting("number", 0.0), -1, "space.x must lie in [0, inf), got -1"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(setting: Setting, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        setting.check(value, "space.x")
    assert str(caught.value) == says


VALUES = st.one_of(
    st.booleans(), st.none(), st.integers(-3, 10**6), st.floats(-2.0, 200.0), st.text(max_size=3)
)


@given(
    name=st.sampled_from(sorted(SETTINGS)),
    value=st.one_of(VALUES, st.sampled_from(["l1", "sgd", "cubic", "group_lasso"])),
)
def test_the_schema_accepts_what_is_read_and_nothing_else(name: str, value: Any) -> None:
    try:
        SETTINGS[name].check(value, name)
        is_read = True
    except ConfigError:
        is_read = False
    if isinstance(value, str) and SETTINGS[name].kind != "word":
        return  # numbers in quotes are read, and an editor may say so
    validator = Draft202012Validator(SETTINGS[name].schema())
    assert validator.is_valid(value) is is_read
    assert validator.is_valid([value]) is is_read


def test_the_schema_of_a_number_has_a_range_and_one_by_optimizer_if_asked() -> None:
    validator = Draft202012Validator(RATE.schema(by_optimizer=True))
    for written in ({"min": 0.1, "max": 1, "log": True}, {"sgd": 0.1, "adamw": [0.1, 0.2]}):
        assert validator.is_valid(written)
    for written in ({"min": 0.1}, {"min": 0, "max": 1}, {"adam": 0.1}, [], {"sgd": 2}):
        assert not validator.is_valid(written)
    assert not Draft202012Validator(RATE.schema()).is_valid({"sgd": 0.1})
    assert not Draft202012Validator(WORD.schema()).is_valid({"min": 0, "max": 1})


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("recovery.lr", 0.1, 0.1),
        ("recovery.lr", [0.1], 0.1),
        ("recovery.lr", [0.1, "0.1"], 0.1),
        ("recovery.lr", [0.1, 0.2], Parameter("recovery.lr", choices=(0.1, 0.2))),
        ("recovery.lr", {"min": 0.1, "max": 0.2}, Parameter("recovery.lr", 0.1, 0.2)),
        ("recovery.lr", {"min": 0.1, "max": 0.1}, 0.1),
        (
            "recovery.lr",
            {"min": "1e-3", "max": 0.1, "log": True},
            Parameter("recovery.lr", 0.001, 0.1, log=True),
        ),
        ("schedule.steps", {"min": 2, "max": 2.0}, 2),
        (
            "schedule.steps",
            {"min": 2, "max": 6},
            Parameter("schedule.steps", 2.0, 6.0, integer=True),
        ),
        ("repair", [True, False], Parameter("repair", choices=(True, False))),
    ],
)
def test_a_value_a_list_and_a_range(name: str, value: Any, read: Any) -> None:
    found = read_setting(name, value, "space.x")
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("recovery.lr", [], "space.x is an empty list · write at least one value"),
        ("recovery.lr", [0.1, 0], "space.x[1] must lie in (0, 100], got 0"),
        ("recovery.lr", {"max": 1}, "space.x is a range and needs min"),
        ("recovery.lr", {}, "space.x is a range and needs min and max"),
        ("recovery.lr", {"min": 0, "max": 1}, "space.x.min must lie in (0, 100], got 0"),
        (
            "recovery.lr",
            {"min": 0.2, "max": 0.1},
            "space.x: min must not be above max, got min=0.2, max=0.1",
        ),
        (
            "recovery.lr",
            {"min": 0.1, "max": 0.2, "log": 1},
            "space.x.log must be true or false, got 1",
        ),
        (
            "recovery.distillation",
            {"min": 0, "max": 1, "log": True},
            "space.x: a log range needs min above 0, got 0",
        ),
        (
            "recovery.lr",
            {"min": 0.1, "max": 1, "step": 2},
            "space.x.step is not a key · known: min, max, log",
        ),
        ("repair", {"min": 0, "max": 1}, "space.x takes a value or a list of values, not a range"),
    ],
)
def test_a_list_or_range_that_does_not_fit_is_one_line(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_setting(name, value, "space.x")
    assert str(caught.value) == says


def test_settings_by_optimizer_have_its_default_and_the_same_limits() -> None:
    for name, sgd, adamw in (("lr", 0.01, 0.0003), ("weight_decay", 5e-4, 0.01)):
        plain = SETTINGS[f"recovery.{name}"]
        for optimizer, default in (("sgd", sgd), ("adamw", adamw)):
            own = SETTINGS[f"recovery.{name}.{optimizer}"]
            assert (own.default, own.high, own.open_low) == (default, plain.high, plain.open_low)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("recovery.lr.sgd", "recovery.lr"),
        ("recovery.weight_decay.task", "recovery.weight_decay"),
        ("recovery.lr", "recovery.lr"),
        ("repair", "repair"),
        ("ratio.sgd", "ratio.sgd"),  # a group may be called so
    ],
)
def test_the_optimizer_is_cut_off_a_settings_name(name: str, without: str) -> None:
    assert without_optimizer(name) == without


def test_defaults_are_values_that_may_be_written() -> None:
    for name, setting in SETTINGS.items():
        if setting.default == setting.default:  # else it is left to the optimizer
            assert setting.check(setting.default, name) == setting.default


def test_an_unknown_key_names_the_nearest_and_all() -> None:
    check_keys({"kinds": 1}, ("kinds", "per"), "space.patterns")
    with pytest.raises(ConfigError) as caught:
        check_keys({"per": 1, "kind": 1}, iter(("kinds", "per")), "space.patterns")
    assert str(caught.value) == (
        "space.patterns.kind is not a key · did you mean 'kinds'? · known: kinds, per"
    )


def test_a_word_that_is_like_no_other_has_no_question() -> None:
    assert nearest_word("cubik", ("linear", "cubic")) == " · did you mean 'cubic'?"
    assert nearest_word("xyz", ("linear", "cubic")) == ""


@pytest.mark.parametrize("value", [None, 3, [1], "a: 1"])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        as_mapping(value, "space.depth")
    says = f"space.depth must be a mapping of keys to values, got {value!r}"
    assert str(caught.value) == says
    assert as_mapping({"a": 1}, "x") == {"a": 1}
