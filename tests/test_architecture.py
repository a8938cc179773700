import pickle

import pytest

from autoprune.architecture import Architecture

WHOLE = Architecture({"b": 4, "a": 8}, ["layer2", "layer1"], {"a.weight": "2:4"}, "int8")


def test_equal_architectures_have_equal_keys_whatever_the_order() -> None:
    same = Architecture({"a": 8, "b": 4}, ("layer1", "layer2"), {"a.weight": "2:4"}, "int8")
    assert same == WHOLE
    assert same.key == WHOLE.key
    assert hash(same) == hash(WHOLE)


@pytest.mark.parametrize(
    "other",
    [
        Architecture({"a": 7, "b": 4}, WHOLE.dropped, WHOLE.patterns, "int8"),
        Architecture(WHOLE.widths, ("layer1",), WHOLE.patterns, "int8"),
        Architecture(WHOLE.widths, WHOLE.dropped, {"a.weight": "1:4"}, "int8"),
        Architecture(WHOLE.widths, WHOLE.dropped, WHOLE.patterns),
    ],
)
def test_every_field_counts_in_the_key(other: Architecture) -> None:
    assert other.key != WHOLE.key


def test_it_survives_json_and_the_way_to_a_worker() -> None:
    assert Architecture.from_dict(WHOLE.to_dict()) == WHOLE
    assert pickle.loads(pickle.dumps(WHOLE)) == WHOLE


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"widths": {"a": 0}}, r"widths\['a'\] must be a whole number above 0, got 0"),
        ({"widths": {"a": 2.5}}, "whole number above 0, got 2.5"),
        ({"dropped": "layer1"}, "dropped must be a list of block names, got 'layer1'"),
        ({"patterns": {"w": "4:4"}}, r"N:M with N < M such as '2:4', got '4:4'"),
        ({"patterns": {"w": "1.5"}}, "must be a sparsity such as '0.5'"),
        ({"precision": "int4"}, "precision must be one of float32, int8, got 'int4'"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Architecture(**fields)


def test_widths_are_completed_by_the_models_sizes() -> None:
    assert Architecture({"a": 3}).complete({"b": 4, "a": 8}) == {"b": 4, "a": 3}
    assert Architecture.dense({"a": 8}).widths == {"a": 8}
    with pytest.raises(ValueError, match="has no such group"):
        Architecture({"c": 3}).complete({"a": 8})
    with pytest.raises(ValueError, match="at most 8, got 9"):
        Architecture({"a": 9}).complete({"a": 8})
