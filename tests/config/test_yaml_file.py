"""What configurations are read with."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config.yaml_file import anchored, nearest, set_key
from autoprune.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("task=other", {"task": "other", "search": {"trials": 3}}),
        ("search.trials=5", {"task": "digits", "search": {"trials": 5}}),
        ("search.lr=1e-3", {"task": "digits", "search": {"trials": 3, "lr": 0.001}}),
        (" search.seed = 2", {"task": "digits", "search": {"trials": 3, "seed": 2}}),
        ("a.b.c=[1, x]", {"task": "digits", "search": {"trials": 3}, "a": {"b": {"c": [1, "x"]}}}),
        ("task=a=b", {"task": "a=b", "search": {"trials": 3}}),
        ("task=", {"task": None, "search": {"trials": 3}}),
    ],
)
def test_a_key_is_replaced_or_added(override: str, found: dict[str, object]) -> None:
    data: dict[str, object] = {"task": "digits", "search": {"trials": 3}}
    set_key(data, override)
    assert data == found


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trials", "--set trials must have the form key=value, e.g. search.trials=5"),
        ("=5", "--set =5 must have the form key=value, e.g. search.trials=5"),
        ("task.name=3", "--set task.name=3: task is 'digits', which has no keys inside"),
    ],
)
def test_what_names_no_key_is_refused(override: str, says: str) -> None:
    data = {"task": "digits"}
    with pytest.raises(ConfigError) as caught:
        set_key(data, override)
    assert str(caught.value) == says
    assert data == {"task": "digits"}


def test_a_value_that_is_no_yaml_names_the_override() -> None:
    with pytest.raises(ConfigError, match=r"^--set search\.trials=\[:1: not valid YAML"):
        set_key({}, "search.trials=[")


def test_paths_are_meant_from_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    base = Path("/jobs")
    assert anchored(None, base) is None
    assert anchored("data/x", base) == "/jobs/data/x"
    assert anchored("/data", base) == "/data"
    assert anchored("~/data", base) == "/home/me/data"


def test_the_nearest_name_or_all() -> None:
    known = iter(("trials", "minutes"))
    assert nearest("trails", known) == "nearest: trials"
    assert nearest("xyz", ("trials", "minutes")) == "known: trials, minutes"
