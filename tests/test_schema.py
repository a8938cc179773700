"""The JSON schema accepts what is shipped, and refuses what the parser refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from autoprune.config import RunConfig
from autoprune.config.presets import presets
from autoprune.errors import UsageError
from autoprune.schema import config_schema
from autoprune.templates import CONFIG

ROOT = Path(__file__).parents[1]
SHIPPED = [*sorted((ROOT / "scripts").glob("*.yaml")), *sorted(ROOT.glob("results/*/config.yaml"))]
MINIMAL = {"task": "digits", "budget": {"macs": "50%"}}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = config_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_shipped_configuration_is_valid(validator, file: Path) -> None:
    assert list(validator.iter_errors(yaml.safe_load(file.read_text()))) == []


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_by_name_and_in_full(validator, name: str) -> None:
    for space in (name, yaml.safe_load(presets()[name].read_text())):
        assert list(validator.iter_errors({**MINIMAL, "space": space})) == []


def test_what_init_writes_is_valid_with_all_its_comments(validator) -> None:
    text = CONFIG.format(task="digits")
    assert list(validator.iter_errors(yaml.safe_load(text))) == []


GOOD: list[dict[str, Any]] = [
    {"budget": {"latency_ms": {"phone": "8 ms"}}, "devices": {"phone": {"runtime": "torch"}}},
    {"budget": {"latency_ms@phone": 8}, "devices": {"phone": {"threads": 2}}},
    {"budget": {"latency_ms": "30 fps", "latency_p95_ms": "12.5 fps"}},
    {"keep": ["a.*"], "bounds": {"b": {"max_ratio": 0.3}}},
    {"quality": {"accuracy": [">= 0.9", "drop <= 1 pt"]}, "recommend": "drop <= 2 %"},
    {"search": {"patience": 0, "baselines": {"uniform": 0}}},
    {"search": {"baselines": {"smaller": {"a": {"depth": 20}, "b": "mine.py:Small"}}}},
    {"space": {"recovery": {"lr": {"sgd": {"min": 0.01, "max": 0.1, "log": True}}}}},
    {"track": ["mlflow"]},
]
BAD: list[dict[str, Any]] = [
    {"budget": {"mac": 3}},
    {"budget": {}},
    {"budget": {"macs": True}},
    {"bounds": {"b": {"max_ratio": 1.5}}},
    {"quality": {"accuracy": "> 0.9"}},
    {"quality": {"accuracy": [">= 0.9", 0.9]}},
    {"quality": {"accuracy": 0.9}},
    {"recommend": "drop 1"},
    {"search": {"trails": 3}},
    {"search": {"trials": 0}},
    {"search": {"baselines": {"smaller": {"a": 20}}}},
    {"search": {"epochs": "many"}},
    {"search": {"sampler": "tpee"}},
    {"space": {"schedule": {"kind": "sometimes"}}},
    {"space": {"ratios": {"max": 1.0}}},
    {"space": {"recovery": {"lr": {"min": 0.1}}}},
    {"track": ["wandb"]},
    {"colour": "red"},
]


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_what_the_parser_takes_is_valid(validator, change: dict[str, Any]) -> None:
    RunConfig.from_dict({**MINIMAL, **change})
    assert list(validator.iter_errors({**MINIMAL, **change})) == []


@pytest.mark.parametrize("change", BAD, ids=str)
def test_what_the_parser_refuses_is_not(validator, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RunConfig.from_dict({**MINIMAL, **change})
    assert list(validator.iter_errors({**MINIMAL, **change}))


def test_keys_have_the_words_of_the_template() -> None:
    search = config_schema()["$defs"]["SearchConfig"]["properties"]
    assert search["sampler"]["description"] == "tpe | nsga2 | gp | front | random"


def test_every_key_is_described() -> None:
    schema = config_schema()
    top = schema["properties"]
    space = top["space"]["anyOf"][-1]
    parts = (space["properties"][name] for name in ("ratios", "schedule", "recovery"))
    sections = (schema, top["budget"], space, *parts, *schema["$defs"].values())
    keys = [item for section in sections for item in section["properties"].items()]
    assert [key for key, value in keys if not value.get("description")] == []


def test_a_description_is_the_comment_of_its_own_line() -> None:
    search = config_schema()["$defs"]["SearchConfig"]["properties"]
    assert search["patience"]["description"].startswith("stop after so many trials")
    assert search["total_epochs"]["description"].startswith("training epochs of all trials")


def test_each_key_has_its_own_description() -> None:
    found = config_schema()
    budget = found["properties"]["budget"]["properties"]
    assert budget["macs"]["description"].startswith("multiply-accumulates")
    assert budget["params"]["description"] == "number of parameters"
    ratios = found["properties"]["space"]["anyOf"][-1]["properties"]["ratios"]["properties"]
    assert ratios["min"]["description"] == "lowest pruned fraction of a group"
    assert ratios["max"]["description"] == "highest pruned fraction of a group"
    trials = found["$defs"]["SearchConfig"]["properties"]["trials"]["description"]
    assert trials.endswith("learning rates")
