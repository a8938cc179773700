"""Keyword arguments of `search` are the keys of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config import RunConfig
from autoprune.config.sections import SearchConfig
from autoprune.errors import UsageError
from autoprune.options import SearchOptions, sections


def test_search_takes_every_key_of_the_configuration() -> None:
    keys = {*RunConfig.model_fields, *SearchConfig.model_fields} - {"task", "search"}
    assert set(SearchOptions.__annotations__) == keys


def test_every_option_goes_into_the_section_that_has_its_key() -> None:
    found = sections("digits", dict.fromkeys(SearchOptions.__annotations__, 1))  # type: ignore[typeddict-item]
    assert set(found["search"]) == set(SearchConfig.model_fields)
    assert set(found) == set(RunConfig.model_fields)
    assert found["task"] == "digits"


def test_paths_and_sequences_become_what_yaml_has() -> None:
    found = sections(
        "digits",
        {
            "budget": {"macs": "50%"},
            "device": {"profile": Path("phone.json")},
            "keep": ("a", "b"),
            "levels": ("40%", 3),
            "output": Path("runs") / "a",
        },
    )
    assert found == {
        "task": "digits",
        "budget": {"macs": "50%"},
        "device": {"profile": "phone.json"},
        "keep": ["a", "b"],
        "output": "runs/a",
        "search": {"levels": ["40%", 3]},
    }


@pytest.mark.parametrize(
    ("name", "hint"), [("trails", "nearest: trials"), ("buget", "nearest: budget")]
)
def test_an_unknown_option_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        sections("digits", {name: 3})  # type: ignore[misc]
    assert str(caught.value) == f"search: {name} is not an option · {hint}"
