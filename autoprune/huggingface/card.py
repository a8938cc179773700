"""The model card of a saved model: README.md with the front matter that the Hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from autoprune.huggingface.measured import Measured, Row
from autoprune.pruning.configuration import dense_config, dense_twin
from autoprune.pruning.depth import Removed

CARD = "README.md"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_of(model: nn.Module, *, has_config: bool, measured: Measured | None = None) -> str:
    """The card of a pruned model: what is known of it, and nothing else.

    Sizes are those of the model and of its class with the dense configuration; costs and metrics
    are those of `measured`.
    """
    known, twin = measured or Measured(), dense_twin(model)
    base = base_model(dense_config(model))
    parts = [_front_matter(base, known.metrics, has_config=has_config), _lead(model, base)]
    parts += _table(model, twin, known)
    parts += _pruned(model, twin) if twin is not None else []
    parts += ["## How to load it", _usage(type(model), has_config=has_config)]
    return "\n\n".join(parts) + "\n"


def base_model(config: Any) -> str | None:
    """The name on the Hub that a configuration came from; None for a folder, or an unknown one.

    >>> from types import SimpleNamespace
    >>> base_model(SimpleNamespace(_name_or_path="google-bert/bert-base-uncased"))
    'google-bert/bert-base-uncased'
    >>> base_model(SimpleNamespace(_name_or_path="/home/me/model"))
    """
    name = str(getattr(config, "_name_or_path", None) or "")
    return name if _HUB.fullmatch(name) and not Path(name).exists() else None


def _front_matter(base: str | None, metrics: Sequence[str], *, has_config: bool) -> str:
    found: dict[str, Any] = {"library_name": "transformers" if has_config else "autoprune"}
    if base:
        found["base_model"] = base
    found["tags"] = ["autoprune", "pruning"]
    if judged := [name for name in metrics if "loss" not in name]:
        found["metrics"] = judged
    return f"---\n{yaml.safe_dump(found, sort_keys=False)}---"


def _lead(model: nn.Module, base: str | None) -> str:
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"`{type(model).__name__}`"
    return (
        f"# {type(model).__name__}, pruned\n\nA smaller version of {origin}, made with autoprune: "
        "units and blocks were removed, not masked."
    )


def _table(model: nn.Module, twin: nn.Module | None, known: Measured) -> Iterator[str]:
    rows = list(known.rows)
    if not any(row.label == "parameters" for row in rows):
        counts = [f"{_params(net):,}" if net is not None else "–" for net in (twin, model)]
        rows.insert(0, Row("parameters", *counts))
    lines = ["|  | dense | pruned |", "|---|---:|---:|"]
    lines += [f"| {row.label} | {row.dense} | {row.pruned} |" for row in rows]
    yield "\n".join(lines)
    if known.notes:
        yield " ".join(known.notes)


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _pruned(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """Which weights have other shapes than the dense ones, and which modules are gone."""
    now = {name: tuple(held.shape) for name, held in model.named_parameters()}
    gone = [path for path, module in model.named_modules() if isinstance(module, Removed)]
    lines = []
    for name, held in twin.named_parameters():
        after = now.get(name)
        is_gone = any(name.startswith(f"{path}.") for path in gone)
        if held.dim() > 1 and not is_gone and after != held.shape:
            shown = "gone" if after is None else _shape(after)
            lines.append(f"| `{name}` | {_shape(tuple(held.shape))} | {shown} |")
    if lines or gone:
        yield "## What was pruned"
    if gone:
        yield f"Removed: {', '.join(f'`{path}`' for path in gone)}."
    if lines:
        yield "\n".join(["| weight | dense | pruned |", "|---|---:|---:|", *lines])


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))


def _usage(kind: type[nn.Module], *, has_config: bool) -> str:
    is_exported = kind.__module__.startswith("transformers.")
    source = "transformers" if is_exported else kind.__module__
    if has_config:
        lines = [f"from {source} import {kind.__name__}", ""]
        call = f"{kind.__name__}.from_pretrained(folder)"
    elif is_exported:
        lines, call = ["import autoprune", ""], "autoprune.load_hf(folder)"
    else:
        lines = ["import autoprune", f"from {source} import {kind.__name__}", ""]
        call = f"autoprune.load_hf(folder, model_class={kind.__name__})"
    code = "\n".join([*lines, f"model = {call}  # the folder of this file"])
    why = "" if has_config else "Its layers have unequal sizes, which no configuration gives. "
    return f"{why}\n\n```python\n{code}\n```".strip()
