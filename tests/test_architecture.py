import pickle

import pytest

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Selection, Stage
from autoprune.schedule import Schedule

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


def test_the_stages_of_a_candidate_end_at_its_architecture() -> None:
    made = Candidate.planned(
        Architecture({"a": 4, "b": 6}),
        {"a": 16, "b": 6},
        schedule=Schedule("linear", 0.0, 0.5, 3),
    )
    widths = [stage.architecture.widths for stage in made.removals]
    assert widths == [{"a": 12, "b": 6}, {"a": 8, "b": 6}, {"a": 4, "b": 6}]
    assert Candidate.from_dict(made.to_dict()) == made
    assert pickle.loads(pickle.dumps(made)) == made


def test_one_removal_needs_no_stages() -> None:
    made = Candidate(Architecture({"a": 4}), schedule=Schedule("one_shot", 0.2, 0.2))
    assert made.removals == (Stage(0.2, Architecture({"a": 4})),)


def test_a_gradual_candidate_without_its_stages_is_refused() -> None:
    gradual = Schedule("cubic", 0.0, 0.5, 2)
    with pytest.raises(ValueError, match=r"2 removals needs 2 stages, got 0 .* Candidate.planned"):
        Candidate(Architecture({"a": 4}), Selection(), gradual)
    wrong = tuple(Stage(at, Architecture({"a": 5})) for at in (0.0, 0.5))
    with pytest.raises(ValueError, match="last stage must be"):
        Candidate(Architecture({"a": 4}), Selection(), gradual, stages=wrong)
