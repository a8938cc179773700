"""Patterns as words, and in a space."""

from __future__ import annotations

import pytest

from autoprune import patterns
from autoprune.architecture import Architecture
from autoprune.errors import ConfigError
from autoprune.space import SearchSpace


@pytest.mark.parametrize(("written", "kept"), [("0.50", "0.5"), ("2:4", "2:4"), ("0.125", "0.125")])
def test_a_pattern_is_written_in_one_way(written: str, kept: str) -> None:
    assert Architecture(patterns={"w": written}).patterns["w"] == kept


@pytest.mark.parametrize("written", ["4:2", "0.0", "1.0", "half", "0:4", 0.5])
def test_what_is_no_pattern_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"patterns\['w'\] must be a sparsity such as '0.5'"):
        Architecture(patterns={"w": written})


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
