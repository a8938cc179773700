"""Patterns as words, in a space, and applied to the weights of a model."""

from __future__ import annotations

import dataclasses

import pytest

from autoprune import patterns
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.errors import ConfigError
from autoprune.fitted_patterns import FittedPatterns
from autoprune.fitted_space import FittedSpace
from autoprune.patterns import PatternSpace, WeightCurve
from autoprune.schedule import Schedule
from autoprune.space import SearchSpace

WEIGHTS = {
    "a": WeightCurve(100, 16, (0.0, 0.2, 0.6, 1.0)),
    "b": WeightCurve(300, 3, (0.0, 0.377, 0.689, 1.0), blocks=("body",)),
}
ALL = PatternSpace(("dense", "unstructured", "2:4"), 0.1, 0.9)


@pytest.mark.parametrize(("written", "kept"), [("0.50", "0.5"), ("2:4", "2:4"), ("0.125", "0.125")])
def test_a_pattern_is_written_in_one_way(written: str, kept: str) -> None:
    assert Architecture(patterns={"w": written}).patterns["w"] == kept


@pytest.mark.parametrize("written", ["4:2", "0.0", "1.0", "half", "0:4", 0.5])
def test_what_is_no_pattern_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"patterns\['w'\] must be a sparsity such as '0.5'"):
        Architecture(patterns={"w": written})


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


def test_incomplete_groups_keep_what_fits() -> None:
    # ten inputs in groups of four: 2 + 2 + 2 stay
    assert patterns.sparsity_of("2:4", 10) == pytest.approx(0.4)
    assert patterns.sparsity_of("1:4", 10) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kinds": ["sparse"]}, r"patterns.kinds\[0\] must be dense, unstructured, or N:M in quot"),
        ({"kinds": [124]}, "got 124"),
        ({"kinds": []}, "must be a list"),
        ({"kinds": ["2:4"], "sparsity": 0.5}, "sparsity is for the kind unstructured, got 2:4"),
        ({"sparsity": {"max": 1.0}}, r"sparsity.max must lie in \[0, 1\)"),
        ({"sparsity": {"min": 0.9, "max": 0.5}}, "must hold 0 <= min <= max < 1"),
        ({"kind": ["dense"]}, "did you mean 'kinds'"),
        ({"per": "layer"}, "must be one of global, weight"),
        (True, "patterns must be a mapping"),
    ],
)
def test_what_does_not_fit_in_yaml_is_refused(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace.parse({"patterns": spec})


def test_the_default_space_is_dense_and_a_mapping_alone_is_unstructured() -> None:
    assert SearchSpace.parse({}).patterns.is_dense
    assert SearchSpace.parse({"patterns": False}).patterns.is_dense
    found = SearchSpace.parse({"patterns": {"sparsity": {"max": 0.8}}}).patterns
    assert (found.kinds, found.low, found.high) == (("unstructured",), 0.0, 0.8)


def test_one_sparsity_is_spread_by_the_curves_and_its_mean_is_exact() -> None:
    fitted = FittedPatterns(ALL, WEIGHTS)
    found = fitted.patterns({"pattern": "unstructured", "sparsity": 0.5})
    # halfway between a third and two thirds: a = (0.2 + 0.6) / 2, b = (0.377 + 0.689) / 2
    assert found == {"a": "0.4", "b": "0.533"}
    assert patterns.overall(WEIGHTS, found) == pytest.approx(0.5, abs=1e-3)


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
