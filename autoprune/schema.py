"""The JSON schema of the configuration, for editors and other programs."""

from __future__ import annotations

import re
from typing import Any

from autoprune import space
from autoprune.config import RunConfig
from autoprune.cost_fields import AT, DEVICE_NAME, FIELDS, LATENCIES
from autoprune.presets import presets
from autoprune.templates import CONFIG

_LIMIT: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?\s*(%|[A-Za-z]*)\s*$"},
    ]
}


def config_schema() -> dict[str, Any]:
    """A schema of draft 2020-12; descriptions are the comments of what `autoprune init` writes.

    >>> config_schema()["properties"]["task"]["type"]
    'string'
    """
    found = RunConfig.model_json_schema(mode="serialization")  # with the types after checking
    for part in found["$defs"].values():
        part.pop("required", None)  # everything in a section has a default
    properties = found["properties"]
    reference = {"$ref": "#/$defs/DeviceConfig"}
    device = {"anyOf": [reference, {"type": "string"}]}
    properties["budget"] = _budget()
    properties["space"] = {"anyOf": [{"enum": [*presets()]}, _FILE, space.schema()]}
    properties["device"] = device
    properties["devices"] = {
        "type": "object",
        "patternProperties": {f"^{DEVICE_NAME.pattern}$": device},
        "additionalProperties": False,
    }
    found["required"] = ["task", "budget"]
    words = _comments()
    for inner in (properties, *(part["properties"] for part in found["$defs"].values())):
        for key, value in inner.items():
            if key in words:
                value["description"] = words[key]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "autoprune configuration",
    }


_FILE = {"type": "string", "pattern": r"\.ya?ml$"}


def _budget() -> dict[str, Any]:
    by_device = {"type": "object", "additionalProperties": _LIMIT, "minProperties": 1}
    fields: dict[str, Any] = {
        name: {"anyOf": [*_LIMIT["anyOf"], by_device]} if name in LATENCIES else _LIMIT
        for name in FIELDS
    }
    names = "|".join(LATENCIES)
    return {
        "type": "object",
        "properties": fields,
        "patternProperties": {f"^({names}){AT}{DEVICE_NAME.pattern}$": _LIMIT},
        "additionalProperties": False,
        "minProperties": 1,
    }


def _comments() -> dict[str, str]:
    """Key to the comment behind it in the template."""
    return dict(re.findall(r"^[\s#]*(\w+):.*?\s{2,}# (.+)$", CONFIG, re.MULTILINE))
