"""A recipe for models that no configuration of their class gives, such as of unequal layers.

The class is built from the dense configuration, and everything in which the pruned model differs is
changed: shapes of tensors, plain attributes, entries of configurations, modules that were removed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ExportError, StoreError
from autoprune.pruning.configuration import Keys, built, dense_config, integers, read, write
from autoprune.pruning.depth import Removed
from autoprune.pruning.nothing import Nothing, nothing

FORMAT = 1
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class HFRecipe:
    """How a model is made from its class and the dense configuration.

    `attributes` are plain values by module and name, `entries` those within the configuration that
    a module holds (module, keys, value), `removed` what stands for modules that are gone by their
    path, with what they return, and `gone` the parameters and buffers that stand for nothing.
    `tied` says which other tensors share memory with one of those that are saved.
    """

    architecture: str
    config: Mapping[str, Any]
    attributes: Mapping[str, Mapping[str, Any]]
    entries: tuple[tuple[str, tuple[str | int, ...], int], ...] = ()
    removed: Mapping[str, Any] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def recipe_of(model: nn.Module) -> tuple[HFRecipe, dict[str, Tensor]]:
    """The recipe of a pruned model, and its tensors."""
    config = dense_config(model)
    fresh = dict(built(type(model), config).named_modules())
    removed = {p: m for p, m in model.named_modules() if isinstance(m, Removed)}
    attributes, entries, gone = {}, [], []
    for path, module in model.named_modules():
        if path in removed or path not in fresh:
            continue
        before = vars(fresh[path])
        changed = {
            name: _written(value)
            for name, value in vars(module).items()
            if _is_plain(value) and name in before and before[name] != value and name != "training"
        }
        if changed:
            attributes[path] = changed
        gone += [f"{path}.{n}" for n, value in vars(module).items() if isinstance(value, Nothing)]
        entries += _entries(path, module, before)
    recipe = HFRecipe(
        architecture=type(model).__name__,
        config=config.to_dict(),
        attributes=attributes,
        entries=tuple(entries),
        removed={path: _packed(module._result) for path, module in removed.items()},
        gone=tuple(gone),
    )
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    return recipe, tensors


def rebuilt(recipe: HFRecipe, tensors: Mapping[str, Tensor], kind: Any, place: str) -> nn.Module:
    """The model of a recipe. Raises StoreError where it does not fit the class `kind`."""
    model: nn.Module = built(kind, kind.config_class.from_dict(dict(recipe.config)))
    modules = dict(model.named_modules())
    missing = [p for p in (*recipe.removed, *recipe.attributes) if p not in modules]
    if missing:
        raise StoreError(f"{place}: {recipe.architecture} has no module {missing[0]!r}")
    for path, packed in recipe.removed.items():
        parent, _, leaf = path.rpartition(".")
        modules[parent]._modules[leaf] = Removed(modules[path], _unpacked(packed))
    for name in recipe.gone:
        parent, _, leaf = name.rpartition(".")
        tensor = getattr(modules[parent], leaf)
        for held in (modules[parent]._parameters, modules[parent]._buffers):
            held.pop(leaf, None)
        setattr(modules[parent], leaf, nothing(tensor.dim(), tensor.dtype, tensor.device))
    for path, values in recipe.attributes.items():
        for name, value in values.items():
            setattr(modules[path], name, _unpacked(value))
    for path, keys, value in recipe.entries:
        write(modules[path].config, tuple(keys), value)
    _fill(model, tensors, place)
    setattr(model, "_dense_config", kind.config_class.from_dict(dict(recipe.config)))  # noqa: B010
    return model.eval()


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], place: str) -> None:
    named = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    wanted = named.keys() | model.state_dict().keys()
    if missing := sorted(wanted - tensors.keys()):
        raise StoreError(f"{place} holds no tensor {missing[0]!r}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parent, _, leaf = name.rpartition(".")
            if name in named:
                named[name].data = tensor.clone()
            elif name in buffers:
                model.get_submodule(parent)._buffers[leaf] = tensor.clone()


def _entries(
    path: str, module: nn.Module, before: Mapping[str, Any]
) -> list[tuple[str, Keys, int]]:
    """Numbers in the configuration of a module that are others than in a fresh model's."""
    config, other = vars(module).get("config"), before.get("config")
    if not hasattr(config, "to_dict") or other is None:
        return []
    return [(path, keys, n) for keys, n in integers(config) if read(other, keys) != n]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _written(value: Any) -> Any:
    return _packed(value) if isinstance(value, tuple) else copy.deepcopy(value)


def _packed(value: Any) -> Any:
    """Plain values and containers in JSON, tuples and nothing with their kind."""
    if isinstance(value, Nothing):
        return {"nothing": value.ndim}
    if type(value) is tuple:
        return {"tuple": [_packed(item) for item in value]}
    if type(value) is list:
        return [_packed(item) for item in value]
    if isinstance(value, _PLAIN):
        return value
    raise ExportError(f"a removed module that returns a {type(value).__name__} cannot be written")


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(map(_unpacked, value["tuple"]))
        return nothing(int(value["nothing"]))  # of a recipe before 29 November: true
    return [_unpacked(item) for item in value] if isinstance(value, list) else value
