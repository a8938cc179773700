"""References made from the code when the site is built: commands, configuration, presets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from autoprune import cli
from autoprune.config.presets import presets as named_presets
from autoprune.config.presets import resolve_space
from autoprune.schema import config_schema

_SECTIONS = {  # the schema's name: the key in the YAML
    "DeviceConfig": "device",
    "BoundConfig": "bounds",
    "SearchConfig": "search",
    "BaselineConfig": "search.baselines",
    "RayConfig": "search.ray",
}


def commands() -> str:
    """Every command with its arguments and options, as Markdown."""
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("autoprune", [], resilient_parsing=True)
    parts = [_options(group, context)]
    for name, command in group.commands.items():
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        usage = " ".join(command.collect_usage_pieces(inner))
        parts += [f"## {name}", command.help or "", f"```\nautoprune {name} {usage}\n```"]
        parts += [_options(command, inner)]
    return "\n\n".join(part for part in parts if part)


def _options(command: Any, context: Any) -> str:
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            name, text = record
            rows.append((f"`{name}`", _cell(text)))
    return _table(("argument or option", "meaning"), rows)


def configuration() -> str:
    """Every key of the configuration with its values, default and meaning, as Markdown."""
    schema = config_schema()
    parts = ["## Top level", _keys(schema)]
    parts += ["## budget", _BUDGET, _keys(schema["properties"]["budget"], defaults=False)]
    for name, key in _SECTIONS.items():
        section = schema["$defs"][name]
        parts += [f"## {key}", section.get("description", ""), _keys(section)]
    space = schema["properties"]["space"]["anyOf"][-1]
    parts += ["## space", _SPACE, _keys(dict(_flat(space)), defaults=False)]
    return "\n\n".join(part for part in parts if part)


_BUDGET = (
    "Limits that hold together: an absolute value with its unit (`8 ms`, `2 MB`, `1.5 M`) or a "
    "share of the dense model's (`50%`). With named `devices`, a latency is a mapping from their "
    "names, or `latency_ms@name`."
)
_SPACE = (
    "A preset's name, the path of a YAML file, or these keys. Where values are listed, a list of "
    "values is a choice that the search makes; a number may also be a range "
    "`{min: …, max: …, log: true}`. `recovery.lr` and `recovery.weight_decay` may be a mapping "
    "from optimizers to these."
)


def presets() -> str:
    """The presets of the space, each with its first comment and its content, as Markdown."""
    parts = []
    for name in named_presets():
        resolve_space(name, None, "docs")  # it can be read
        text = named_presets()[name].read_text(encoding="utf-8")
        parts += [f"### {name}", f"```yaml\n{text.strip()}\n```"]
    return "\n\n".join(parts)


def _keys(section: Mapping[str, Any], *, defaults: bool = True) -> str:
    rows = []
    for key, value in section["properties"].items():
        row = [f"`{key}`", _values(value)]
        if defaults:
            row.append(f"`{_written(value['default'])}`" if "default" in value else "")
        rows.append((*row, _cell(value.get("description", ""))))
    head = ("key", "values", "default", "meaning") if defaults else ("key", "values", "meaning")
    return _table(head, rows)


def _flat(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of a space with dots, those of its sections too."""
    found = {}
    for key, value in space["properties"].items():
        inner = value.get("properties", {})
        parts = {f"{key}.{name}": part for name, part in inner.items()} or {key: value}
        found |= {name: _single(part) for name, part in parts.items()}
    yield "properties", found


def _single(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the list and the range that every setting may be."""
    forms = schema.get("anyOf", [])
    if len(forms) > 1 and forms[1].get("items") == forms[0]:
        return {**forms[0], "description": schema.get("description", "")}
    return schema


def _values(schema: Mapping[str, Any]) -> str:
    """What a key may be, in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return f"[keys](#{_anchor(_SECTIONS[schema['$ref'].rpartition('/')[2]])})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_values, schema["anyOf"]))))
    return _kind(schema)


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _range(schema)
    if kind == "array":
        inner = _values(schema["items"])
        return f"list of {inner}" if inner else "list"
    names = {"string": "text", "boolean": "`true`, `false`", "object": "mapping", "null": ""}
    return names.get(kind, "mapping")


def _range(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "≥",
        "exclusiveMinimum": "above",
        "maximum": "≤",
        "exclusiveMaximum": "below",
    }
    parts = [f"{sign} {schema[key]:g}" for key, sign in words.items() if key in schema]
    return f" {', '.join(parts)}" if parts else ""


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{…}" if value else "{}"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w-]", "", heading.lower())


def _cell(text: str) -> str:
    """Text that can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
