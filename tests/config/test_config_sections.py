"""Types and limits of the sections of a configuration, each by itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from autoprune.config.sections import (
    BaselineConfig,
    BoundConfig,
    DeviceConfig,
    RayConfig,
    SearchConfig,
    StartingModels,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": 2_000_000}, r"must be at most 1e\+06 \(records are read as a whole\)"),
        ({"trials": "3"}, "a number is needed"),
        ({"rungs": True}, "a number is needed"),
        ({"minutes": 0.0}, "greater than 0"),
        ({"epochs": float("inf")}, "finite"),
        ({"trails": 3}, "Extra inputs are not permitted"),
        ({"objectives": []}, "at least 1 item"),
    ],
)
def test_what_a_search_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchConfig(**values)


def test_a_section_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SearchConfig().trials = 3  # type: ignore[misc]


def test_bounds_are_in_order_and_not_empty() -> None:
    assert BoundConfig(max_ratio=0.3).min_ratio is None
    with pytest.raises(ValidationError, match="min_ratio or max_ratio is needed"):
        BoundConfig()
    with pytest.raises(ValidationError, match="min_ratio must not be above max_ratio"):
        BoundConfig(min_ratio=0.5, max_ratio=0.4)


def test_resources_and_threads_are_no_less_than_they_can_be() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        RayConfig(resources_per_trial={"cpu": -1.0})
    with pytest.raises(ValidationError, match="no processor has more"):
        DeviceConfig(threads=5000)


def test_names_of_starting_models_are_names_of_folders() -> None:
    starts = TypeAdapter(StartingModels)
    assert starts.validate_python({}) == {}
    assert list(starts.validate_python({"a-1": {}, "b_2": {"depth": 20}})) == ["a-1", "b_2"]
    with pytest.raises(ValidationError, match=r"digits, _ and -, not '\.\./a'"):
        starts.validate_python({"../a": {}, "b": {}})
    with pytest.raises(ValidationError, match="two or more"):
        starts.validate_python({"a": {}})


def test_a_single_smaller_model_is_enough_and_its_name_is_one_of_a_folder() -> None:
    assert BaselineConfig().smaller == {}
    assert BaselineConfig(smaller={"a-1": {"depth": 20}, "b": "f.py:B"}).scratch is False
    with pytest.raises(ValidationError, match=r"digits, _ and -, not '\.\./a'"):
        BaselineConfig(smaller={"../a": {}})
