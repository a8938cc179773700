"""The model card of a model of transformers: what its configuration says of the dense one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.cards.card import Card, code, table
from autoprune.cards.measured import Measured, Row
from autoprune.pruning.configuration import dense_config, dense_twin
from autoprune.pruning.depth import Removed

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_of(model: nn.Module, *, has_config: bool, measured: Measured | None = None) -> str:
    """The card of a pruned model: what is known of it, and nothing else.

    Sizes are those of the model and of its class with the dense configuration; costs and metrics
    are those of `measured`.
    """
    twin, name = dense_twin(model), type(model).__name__
    base = base_model(dense_config(model))
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"`{name}`"
    return Card(
        title=f"{name}, pruned",
        lead=f"A smaller version of {origin}, made with autoprune: units and blocks were removed, "
        "not masked.",
        measured=_with_parameters(measured or Measured(), model, twin),
        pruned=list(_pruned(model, twin)) if twin is not None else [],
        usage=_usage(type(model), has_config=has_config),
        library="transformers" if has_config else "autoprune",
        base=base,
    ).text()


def base_model(config: Any) -> str | None:
    """The name on the Hub that a configuration came from; None for a folder, or an unknown one.

    >>> from types import SimpleNamespace
    >>> base_model(SimpleNamespace(_name_or_path="google-bert/bert-base-uncased"))
    'google-bert/bert-base-uncased'
    >>> base_model(SimpleNamespace(_name_or_path="/home/me/model"))
    """
    name = str(getattr(config, "_name_or_path", None) or "")
    return name if _HUB.fullmatch(name) and not Path(name).exists() else None


def _with_parameters(known: Measured, model: nn.Module, twin: nn.Module | None) -> Measured:
    """The same with the number of parameters, where no row has it."""
    if any(row.label == "parameters" for row in known.rows):
        return known
    counts = [f"{_params(net):,}" if net is not None else "–" for net in (twin, model)]
    return replace(known, rows=(Row("parameters", *counts), *known.rows))


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _pruned(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """Which weights have other shapes than the dense ones, and which modules are gone."""
    now = {name: tuple(held.shape) for name, held in model.named_parameters()}
    gone = [path for path, module in model.named_modules() if isinstance(module, Removed)]
    rows = []
    for name, held in twin.named_parameters():
        after = now.get(name)
        is_gone = any(name.startswith(f"{path}.") for path in gone)
        if held.dim() > 1 and not is_gone and after != held.shape:
            shown = "gone" if after is None else _shape(after)
            rows.append((f"`{name}`", _shape(tuple(held.shape)), shown))
    if gone:
        yield f"Removed: {', '.join(f'`{path}`' for path in gone)}."
    if rows:
        yield table(("weight", "dense", "pruned"), rows)


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
    block = code(*lines, f"model = {call}  # the folder of this file")
    why = "" if has_config else "No configuration of its class gives its sizes. "
    return f"{why}\n\n{block}".strip()
