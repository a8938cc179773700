"""Patterns of a search applied to weights: from sampled values, and back."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune import patterns
from autoprune.architecture import Architecture
from autoprune.patterns import PatternSpace, WeightCurve
from autoprune.space import FittedSpace, SearchSpace
from autoprune.space.fitted_patterns import FittedPatterns
from autoprune.space.settings import Parameter

WEIGHTS = {
    "a": WeightCurve(100, 16, (0.0, 0.2, 0.6, 1.0)),
    "b": WeightCurve(300, 3, (0.0, 0.377, 0.689, 1.0), blocks=("body",)),
}
ALL = PatternSpace(("dense", "unstructured", "2:4"), 0.1, 0.9)


def test_one_sparsity_is_spread_by_the_curves_and_its_mean_is_exact() -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    found = fitted.patterns({"pattern": "unstructured", "sparsity": 0.5})
    # halfway between a third and two thirds: a = (0.2 + 0.6) / 2, b = (0.377 + 0.689) / 2
    assert found == {"a": "0.4", "b": "0.533"}
    assert patterns.overall(WEIGHTS, found) == pytest.approx(0.5, abs=1e-3)


def test_patterns_of_other_kinds_or_weights_are_not_allowed() -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    assert fitted.allows({"a": "0.4", "b": "2:4"})
    assert fitted.allows({})
    assert not fitted.allows({"a": "1:4"})
    assert not fitted.allows({"c": "0.4"})
    assert not FittedPatterns(PatternSpace(), {}).allows({"a": "0.4"})


def test_dropped_weights_and_too_few_inputs_have_none() -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    assert fitted.patterns({"pattern": "unstructured", "sparsity": 0.5}, ["body"]) == {"a": "0.4"}
    assert fitted.patterns({"pattern": "2:4"}) == {"a": "2:4"}
    assert fitted.patterns({"pattern": "dense", "sparsity": 0.5}) == {}


@pytest.mark.parametrize("per", ["global", "weight"])
@pytest.mark.parametrize("dropped", [[], ["body"]])
@pytest.mark.parametrize("kind", ["dense", "unstructured", "2:4"])
def test_values_come_back_from_candidates(per: str, kind: str, dropped: list[str]) -> None:
    space = dataclasses.replace(SearchSpace(), patterns=dataclasses.replace(ALL, per=per))
    blocks = {"body": ("h",), "tail": ()}
    fitted = FittedSpace.of(space, {"g": 8, "h": 8}, blocks=blocks, weights=WEIGHTS)
    ends = [""] if per == "global" else [".a", ".b"]
    params = {f"{name}{end}": value for end in ends for name, value in
              (("pattern", kind), ("sparsity", 0.37))}  # fmt: skip
    drops = {"drop.body": bool(dropped), "drop.tail": False}
    made = fitted.candidate({"ratio.g": 0.5, "ratio.h": 0.25, **drops, **params})
    again = fitted.candidate(fitted.params(made))
    assert again.key == made.key
    assert list(made.architecture.dropped) == dropped
    assert bool(made.architecture.patterns) == (kind != "dense")


def test_a_sparsity_that_does_not_count_makes_no_other_candidate() -> None:
    space = dataclasses.replace(SearchSpace(), patterns=ALL)
    fitted = FittedSpace.of(space, {"g": 8}, weights=WEIGHTS)
    one, other = (
        fitted.candidate({"ratio.g": 0.5, "pattern": "2:4", "sparsity": s}) for s in (0.2, 0.8)
    )
    assert one.key == other.key


def test_other_widths_keep_kind_and_sparsity_also_where_a_block_comes_back() -> None:
    space = dataclasses.replace(SearchSpace(), patterns=ALL)
    blocks = {"body": ("h",), "tail": ()}
    fitted = FittedSpace.of(space, {"g": 8, "h": 8}, blocks=blocks, weights=WEIGHTS)
    params = {"pattern": "unstructured", "sparsity": 0.5, "drop.body": True, "drop.tail": False}
    made = fitted.candidate({"ratio.g": 0.5, "ratio.h": 0.0, **params})
    assert dict(made.architecture.patterns) == {"a": "0.4"}
    wide = fitted.resized(made, Architecture({"g": 8, "h": 8}))
    assert dict(wide.architecture.patterns) == {"a": "0.4", "b": "0.533"}


def test_the_space_travels_to_workers() -> None:
    space = dataclasses.replace(SearchSpace(), patterns=ALL)
    fitted = FittedSpace.of(space, {"g": 8}, weights=WEIGHTS)
    kind, state = fitted.__reduce__()
    assert kind(*state) == fitted
    kind, state = space.__reduce__()
    assert kind(*state) == space


@pytest.mark.parametrize(
    ("space", "parameters"),
    [
        (PatternSpace(), ()),
        (PatternSpace(("2:4",)), ()),
        (PatternSpace(("unstructured",), 0.5, 0.5), ()),
        (PatternSpace(("unstructured",), 0.1, 0.9), (Parameter("sparsity", 0.1, 0.9),)),
        (
            PatternSpace(("dense", "2:4"), per="weight"),
            tuple(Parameter(f"pattern.{name}", choices=("dense", "2:4")) for name in "ab"),
        ),
    ],
)
def test_only_what_varies_is_a_parameter(
    space: PatternSpace, parameters: tuple[Parameter, ...]
) -> None:
    assert FittedPatterns(space, WEIGHTS).parameters == parameters
    assert FittedPatterns(space, {}).parameters == ()


def test_a_sparsity_outside_the_range_is_moved_to_its_end() -> None:
    fitted = FittedPatterns(PatternSpace(("unstructured",), 0.2, 0.6, "weight"), WEIGHTS)
    found = fitted.patterns({"sparsity.a": 0.99, "sparsity.b": 0.01})
    assert found == {"a": "0.6", "b": "0.2"}


def test_the_sparsest_of_the_kinds_depends_on_the_range() -> None:
    weights = {"a": WEIGHTS["a"]}
    low = PatternSpace(("dense", "unstructured", "1:4"), 0.0, 0.7)
    assert FittedPatterns(low, weights).sparsest() == {"a": "1:4"}  # 0.75 is more than 0.7
    high = dataclasses.replace(low, high=0.8)
    # at 0.8 of all: 0.6 + 0.4 x (0.8 - 2/3) x 3
    assert FittedPatterns(high, weights).sparsest() == {"a": "0.76"}
    assert FittedPatterns(PatternSpace(), WEIGHTS).sparsest() == {}
    assert FittedPatterns(ALL, WEIGHTS).sparsest(["body"]).keys() == {"a"}


def test_sparser_moves_sparsities_alone_and_reaches_the_highest() -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    values = {"ratio.g": 0.5, "pattern": "unstructured", "sparsity": 0.5}
    assert fitted.sparser(values, 0.0) == values
    assert fitted.sparser(values, 0.5) == {**values, "sparsity": 0.7}
    assert fitted.sparser(values, 1.0) == {**values, "sparsity": 0.9}


def test_uniform_values_are_for_every_weight_that_has_its_own() -> None:
    assert FittedPatterns(ALL, WEIGHTS).uniform("2:4", 0.4) == {"pattern": "2:4", "sparsity": 0.4}
    each = FittedPatterns(dataclasses.replace(ALL, per="weight"), WEIGHTS)
    assert each.uniform("dense", 0.1) == {
        "pattern.a": "dense",
        "pattern.b": "dense",
        "sparsity.a": 0.1,
        "sparsity.b": 0.1,
    }


@given(sparsity=st.integers(10, 90), dropped=st.sampled_from([(), ("body",)]))
def test_values_of_patterns_give_the_same_patterns(sparsity: int, dropped: tuple[str, ...]) -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    found = fitted.patterns(fitted.uniform("unstructured", sparsity / 100), dropped)
    again = fitted.params(Architecture(patterns=found))
    assert fitted.patterns(again, dropped) == found


def test_patterns_that_the_space_lacks_become_the_nearest_values() -> None:
    only = FittedPatterns(PatternSpace(("dense", "2:4")), WEIGHTS)
    assert only.params(Architecture(patterns={"a": "0.5"})) == {"pattern": "dense"}
    assert only.params(Architecture(patterns={"a": "2:4"})) == {"pattern": "2:4"}
    sparse = FittedPatterns(PatternSpace(("unstructured", "2:4"), 0.1, 0.9), WEIGHTS)
    assert sparse.params(Architecture()) == {"pattern": "unstructured", "sparsity": 0.1}
