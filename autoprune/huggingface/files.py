"""Folders of pruned models: what `from_pretrained` reads where it can, else a recipe."""

from __future__ import annotations

import importlib
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.cards.card import CARD
from autoprune.cards.measured import measured_in
from autoprune.errors import ExportError, StoreError, UsageError, first_line
from autoprune.graph.replica import plain
from autoprune.graph.trace import Inputs
from autoprune.huggingface.card import card_of
from autoprune.huggingface.layers import without_empty_layers
from autoprune.huggingface.recipe import HFRecipe, rebuilt, recipe_of
from autoprune.log_level import log_level
from autoprune.pick import RECOMMENDED
from autoprune.pruning.configuration import agree, is_configured, mend, outputs
from autoprune.store.files import plain as plain_values
from autoprune.store.files import read, read_json, write_json, write_text

_log = logging.getLogger(__name__)
RECIPE, WEIGHTS, CONFIG = "autoprune.json", "autoprune.safetensors", "config.json"
_HINT = (
    "pruned by autoprune to sizes that no configuration of its class gives: load it with "
    "autoprune.load_hf(folder)"
)


@dataclass(frozen=True)
class SavedHF:
    """A folder that was written and read again.

    With `has_config` a `from_pretrained` of transformers reads it; else only `load_hf` does.
    """

    path: Path
    has_config: bool


def save_hf(
    model: nn.Module,
    folder: str | Path,
    example_inputs: Inputs,
    *,
    run: str | Path | None = None,
    pick: str = RECOMMENDED,
) -> SavedHF:
    """Save a pruned model of Hugging Face's transformers.

    Layers of which dropped blocks left nothing are taken out of their lists, and the configuration
    gets the sizes that the model has: where its class can express them, the folder is what
    `save_pretrained` writes, and `from_pretrained` reads it. Where it cannot (layers of unequal
    widths, a width that the class derives from another one, attention without its feed-forward
    part), the folder holds a recipe that `load_hf` reads, and `from_pretrained` fails with an error
    that says so. Either is loaded again and must
    give the same outputs on the example inputs. The model is not changed.

    A model card, README.md, says what was pruned, from what, and how the folder is loaded. With
    `run`, the run that the model came from (and `pick`, as for `load`), it also has what was
    measured there: latency, and the metrics of the model and of the dense one.

    Raises UsageError for a model without a configuration, or whose weights are not those that `run`
    and `pick` name; ExportError where what was written does
    not give the same outputs; nothing is left in `folder` then.
    """
    model, path = plain(model), Path(folder)
    if not is_configured(model):
        raise UsageError(
            f"save_hf takes a model of transformers, with config and save_pretrained, got a "
            f"{type(model).__name__} · export writes any model"
        )
    measured = None if run is None else measured_in(model, run, pick)
    wanted = outputs(model, example_inputs)
    short = _shortened(model, example_inputs, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".save-") as held:
        draft, kind = Path(held) / "model", type(model)
        has_config = mend(short, example_inputs)
        if has_config:
            short.save_pretrained(draft)  # type: ignore[operator]
            has_config = agree(outputs(load_hf(draft, model_class=kind), example_inputs), wanted)
        if not has_config:
            shutil.rmtree(draft, ignore_errors=True)
            _write_recipe(model, draft)
            _log.warning("%s: %s", path, _HINT)
            if not agree(outputs(load_hf(draft, model_class=kind), example_inputs), wanted):
                raise ExportError(f"{path}: the saved model does not give the same outputs")
        card = card_of(model, has_config=has_config, measured=measured)
        write_text(draft / CARD, card)
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
    return SavedHF(path, has_config)


def load_hf(folder: str | Path, *, model_class: Any = None) -> nn.Module:
    """The model that `save_hf` wrote, in eval mode on the CPU.

    `model_class` is needed for a class that transformers does not export. Raises StoreError where
    the folder is damaged, or holds no model; UsageError where transformers cannot be imported.
    """
    path = Path(folder)
    if (path / RECIPE).is_file():
        from safetensors.torch import load_file

        recipe = read(path / RECIPE, HFRecipe)
        kind = model_class or _class(recipe.architecture, path)
        own = load_file(path / WEIGHTS)
        tensors = {**own, **{name: own[first] for name, first in recipe.tied.items()}}
        return rebuilt(recipe, tensors, kind, str(path))
    architectures = read_json(path / CONFIG).get("architectures") or [""]
    kind = model_class or _class(str(architectures[0]), path)
    with log_level("transformers", below=logging.ERROR):
        model: nn.Module = kind.from_pretrained(path)
    return model.eval()


def _shortened(model: nn.Module, example_inputs: Inputs, wanted: Sequence[Tensor]) -> nn.Module:
    """The model without its empty layers; the model itself where that gives other outputs."""
    short = without_empty_layers(model)
    try:
        found = outputs(short, example_inputs)
    except Exception:  # noqa: BLE001  code may need a layer, or a number of them, in any way
        return model
    return short if agree(found, wanted) else model


def _class(name: str, path: Path) -> Any:
    try:
        found = getattr(importlib.import_module("transformers"), name, None) if name else None
    except ImportError as error:
        raise UsageError(
            f"load_hf needs transformers: {first_line(error)} · pip install 'autoprune[hf]'"
        ) from error
    if found is None:
        raise StoreError(f"{path}: transformers has no class {name!r} · give it as model_class=...")
    return found


def _write_recipe(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    recipe, tensors = recipe_of(model)
    folder.mkdir()
    first: dict[Any, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        if tensor.numel() and first.setdefault(key, name) != name:
            tied[name] = first[key]
    own = {n: t.detach().cpu().clone().contiguous() for n, t in tensors.items() if n not in tied}
    save_file(own, folder / WEIGHTS)
    write_json(folder / RECIPE, plain_values(replace(recipe, tied=tied)))
    refused = {"model_type": _HINT, "transformers_weights": _HINT}  # either is in an error
    write_json(folder / CONFIG, {**refused, "architectures": [recipe.architecture]})
