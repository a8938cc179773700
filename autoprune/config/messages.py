"""Mistakes in a configuration, each as one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError

from autoprune.config.yaml_file import nearest
from autoprune.printable import shown


def one_line(
    error: ValidationError,
    place: str,
    model: type[BaseModel],
    named: Mapping[str, type[BaseModel]],
) -> str:
    """The first mistake of a configuration: place, rule, actual value, remedy.

    `model` is what was validated, `named` the sections that it holds under names of the user's.
    """

    def keys_at(path: Sequence[str]) -> list[str]:
        if path and path[0] in named:
            return list(named[path[0]].model_fields)
        section = model
        for part in path:
            inner = section.model_fields[part].annotation
            if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                break
            section = inner
        return list(section.model_fields)

    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "function-"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{place}: {key} is not a key · {nearest(path[-1], keys_at(path[:-1]))}"
    if first["type"] == "missing":
        return f"{place}: {key} is missing · {_MISSING.get(key, 'add it')}"
    if first["type"] in ("model_type", "model_attributes_type"):
        keys = ", ".join(keys_at(path))
        return f"{place}: {key} must hold keys ({keys}), got {shown(first['input'])}"
    message = _TYPES.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )
    return f"{place}: {key}: {message}, got {shown(first['input'])}"


_TYPES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    "string_type": "must be a text",
    "dict_type": "must hold keys and values",
    "too_short": "must hold at least one",
}
_MISSING = {
    "task": "e.g. task: digits, or task: path/to/file.py:MyTask",
    "budget": "e.g. budget: {latency_ms: 50%}",
}
